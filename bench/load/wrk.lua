-- Requests of a file, a line each: value of Authorization, tab, body. Each thread begins somewhere else.
local requests, count, at = {}, 0, 0

function init()
  math.randomseed(tonumber(os.getenv("SEED")))
  for line in io.lines(os.getenv("REQUESTS")) do
    local tab = string.find(line, "\t", 1, true)
    local headers = { ["Content-Type"] = "application/json", ["Accept"] = "application/json" }
    if tab > 1 then headers["Authorization"] = string.sub(line, 1, tab - 1) end
    count = count + 1
    requests[count] = wrk.format("POST", nil, headers, string.sub(line, tab + 1))
  end
  at = math.random(count)
end

function request()
  at = at % count + 1
  return requests[at]
end

function done(summary, latency)
  local e = summary.errors
  io.write(string.format('RESULT {"requests":%d,"us":%d,"p50":%.3f,"p99":%.3f,"errors":%d,"cpuUs":%d}\n', summary.requests,
    summary.duration, latency:percentile(50) / 1000, latency:percentile(99) / 1000,
    e.connect + e.read + e.write + e.status + e.timeout, os.clock() * 1000000))
end
