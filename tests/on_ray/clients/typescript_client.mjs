// @modelcontextprotocol/client 2.4. argv: URL, mode ("auto" or "legacy"); stdin: {tool: arguments}.
import { readFileSync } from "node:fs";
import { Client, StreamableHTTPClientTransport } from "@modelcontextprotocol/client";

const [url, mode] = process.argv.slice(2);
const calls = JSON.parse(readFileSync(0, "utf8"));
const client = new Client(
  { name: "clients-matrix", version: "1" },
  { versionNegotiation: { mode } },
);
await client.connect(new StreamableHTTPClientTransport(new URL(url)));
const tools = (await client.listTools()).tools.map((tool) => tool.name);
const answers = {};
for (const [name, args] of Object.entries(calls)) {
  const result = await client.callTool({ name, arguments: args });
  answers[name] = {
    isError: Boolean(result.isError),
    types: result.content.map((block) => block.type),
  };
}
const protocol = client.getNegotiatedProtocolVersion?.() ?? null;
console.log(JSON.stringify({ protocol, tools, answers }));
await client.close();
