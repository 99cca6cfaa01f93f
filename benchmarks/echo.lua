-- One tools/call at 2026-07-28 for each request; an answer that lacks the text is counted as wrong.
local text = "thornback-benchmark-echo"
local meta = '"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28",' ..
  '"io.modelcontextprotocol/clientCapabilities":{}}'
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
wrk.headers["Accept"] = "application/json, text/event-stream"
wrk.headers["MCP-Protocol-Version"] = "2026-07-28"
wrk.headers["Mcp-Method"] = "tools/call"
wrk.headers["Mcp-Name"] = "echo"
wrk.body = '{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo",' ..
  '"arguments":{"text":"' .. text .. '"},' .. meta .. '}}'

local threads = {}

function setup(thread)
  table.insert(threads, thread)
end

function init(args)
  wrong = 0
  if os.getenv("THORNBACK_KEY") then
    wrk.headers["Authorization"] = "Bearer " .. os.getenv("THORNBACK_KEY")
  end
  request_bytes = wrk.format()
end

function request()
  return request_bytes
end

function response(status, headers, body)
  if status ~= 200 or not string.find(body, text, 1, true)
    or string.find(body, '"isError":true', 1, true) then
    wrong = wrong + 1
  end
end

function done(summary, latency, requests)
  local wrong_answers = 0
  for _, thread in ipairs(threads) do wrong_answers = wrong_answers + thread:get("wrong") end
  local e = summary.errors
  io.write(string.format(
    '\nJSON {"calls":%d,"duration_us":%d,"wrong":%d,"socket_errors":%d,' ..
    '"p50_us":%d,"p90_us":%d,"p99_us":%d,"max_us":%d}\n',
    summary.requests, summary.duration, wrong_answers,
    e.connect + e.read + e.write + e.timeout,
    latency:percentile(50), latency:percentile(90), latency:percentile(99), latency.max))
end
