// @modelcontextprotocol/sdk 1.32. argv: URL; stdin: {tool: arguments}.
import { readFileSync } from "node:fs";
import { Client } from "@modelcontextprotocol/sdk/client/index.js";
import { StreamableHTTPClientTransport } from "@modelcontextprotocol/sdk/client/streamableHttp.js";

const calls = JSON.parse(readFileSync(0, "utf8"));
const client = new Client({ name: "clients-matrix", version: "1" });
await client.connect(new StreamableHTTPClientTransport(new URL(process.argv[2])));
const tools = (await client.listTools()).tools.map((tool) => tool.name);
const answers = {};
for (const [name, args] of Object.entries(calls)) {
  const result = await client.callTool({ name, arguments: args });
  answers[name] = {
    isError: Boolean(result.isError),
    types: result.content.map((block) => block.type),
  };
}
console.log(JSON.stringify({ protocol: null, tools, answers }));
await client.close();
