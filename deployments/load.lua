-- The load of load_wrk.py: one request at a time on each connection until a moment, each with a text
-- of its own; every answer is compared with its question, and none is left unanswered.
--
-- Moments are seconds of CLOCK_MONOTONIC, which all processes of a machine share: latencies are of
-- what is answered between `from` and `until`, where the CPU time of the servers is taken as well.
local ffi = require("ffi")
ffi.cdef [[
  typedef struct { long s; long ns; } thornback_time;
  int clock_gettime(int clock, thornback_time *now);
]]
local CLOCK_MONOTONIC = 1
local FOREVER_MS = 3600000
local HEAD = '{"jsonrpc":"2.0","id":%d,"method":"%s","params":{'
local META = '"_meta":{"io.modelcontextprotocol/protocolVersion":"%s",' ..
  '"io.modelcontextprotocol/clientCapabilities":{}}'
local FIRST_WITH_META = "2026-07-28"
local clock = ffi.new("thornback_time")
local threads = {}

local function now_s()
  ffi.C.clock_gettime(CLOCK_MONOTONIC, clock)
  return tonumber(clock.s) + tonumber(clock.ns) / 1e9
end

local function filled(template, text)
  return (string.gsub(template, "@", text))
end

function setup(thread)
  table.insert(threads, thread)
end

-- Globals, so that `done`, which runs elsewhere, can read them: `thread:get` reaches no local.
function init(args)
  from_s, until_s = tonumber(args[1]), tonumber(args[2])
  method, nonce = args[3], args[4]
  arguments, expected = args[5], args[6]
  padding = string.rep("x", tonumber(args[7]))
  local revision = args[8]
  modern = revision >= FIRST_WITH_META -- dates, which are in the order of their letters
  meta = modern and string.format(META, revision) or nil
  tools = {}
  for i = 9, #args do table.insert(tools, args[i]) end
  asked, pending, answered, wrong = 0, 0, 0, 0
  first_wrong, latency_us = "", ""
  sent_at, tool_of, times = {}, {}, {}
  for _, tool in ipairs(tools) do times[tool] = {} end
  headers = {
    ["Content-Type"] = "application/json",
    ["Accept"] = "application/json, text/event-stream",
    ["MCP-Protocol-Version"] = revision,
  }
  if modern then headers["Mcp-Method"] = method end
  if os.getenv("THORNBACK_KEY") then
    headers["Authorization"] = "Bearer " .. os.getenv("THORNBACK_KEY")
  end
end

local function text_of(id)
  return nonce .. "-" .. id .. "."
end

function request()
  local id = asked
  local tool = tools[id % #tools + 1]
  local params = {}
  if method == "tools/call" then
    if modern then headers["Mcp-Name"] = tool end
    table.insert(params, '"name":"' .. tool .. '","arguments":' .. filled(arguments, text_of(id)))
  end
  if meta then table.insert(params, meta) end
  asked = asked + 1
  if id > 0 then -- the first is a trial, which wrk does not send
    pending = pending + 1
    sent_at[id], tool_of[id] = now_s(), tool
  end
  local body = string.format(HEAD, id, method) .. table.concat(params, ",") .. "}}"
  return wrk.format("POST", nil, headers, body)
end

local function right(status, id, body)
  return status == 200 and sent_at[id] ~= nil
    and string.find(body, filled(expected, text_of(id)) .. padding, 1, true) ~= nil
    and string.find(body, '"isError":%s*true') == nil
end

-- Three digits of microseconds: exact enough for a percentile, and few enough to be kept.
local function rounded_us(seconds)
  local us, unit = seconds * 1e6, 1
  while us >= 1000 * unit do unit = unit * 10 end
  return math.floor(us / unit) * unit
end

function response(status, _, body)
  local now = now_s()
  local id = tonumber(string.match(body, '"id":%s*(%d+)'))
  if not right(status, id, body) then
    wrong = wrong + 1
    if wrong == 1 then first_wrong = status .. " " .. string.sub(body, 1, 300) end
  end
  pending = pending - 1
  if id == nil or sent_at[id] == nil then return end
  answered = answered + 1
  if now >= from_s and now < until_s then
    local us, seen = rounded_us(now - sent_at[id]), times[tool_of[id]]
    seen[us] = (seen[us] or 0) + 1
  end
  sent_at[id], tool_of[id] = nil, nil
end

local function quoted(text)
  return '"' .. string.gsub(text, '[%c"\\\128-\255]', function(c)
    return string.format("\\u%04x", string.byte(c))
  end) .. '"'
end

local function times_as_json()
  local parts = {}
  for tool, seen in pairs(times) do
    local counts = {}
    for us, count in pairs(seen) do
      table.insert(counts, string.format('"%d":%d', us, count))
    end
    table.insert(parts, quoted(tool) .. ":{" .. table.concat(counts, ",") .. "}")
  end
  return table.concat(parts, ",")
end

-- Milliseconds until a connection asks again. After the end none does, and when nothing is awaited
-- any more the load is over.
function delay()
  if now_s() < until_s then return 0 end
  if pending == 0 then
    latency_us = times_as_json() -- a text: wrk cannot hand a table like this to `done`
    wrk.thread:stop()
    io.write("DRAINED\n") -- wrk itself sleeps on, and load_wrk.py wakes it
    io.flush()
  end
  return FOREVER_MS
end

function done(summary)
  local e = summary.errors
  for _, thread in ipairs(threads) do
    io.write(string.format(
      '\nJSON {"answered":%d,"unanswered":%d,"wrong":%d,"socket_errors":%d,' ..
      '"first_wrong":%s,"latency_us":{%s}}\n',
      thread:get("answered"), thread:get("pending"), thread:get("wrong"),
      e.connect + e.read + e.write, quoted(thread:get("first_wrong")),
      thread:get("latency_us")))
  end
end
