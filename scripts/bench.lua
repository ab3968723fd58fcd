-- What wrk sends for scripts/bench: POST /api/chat with 60 characters of text, over 100 sessions, or as many
-- as the first argument says, one after the other.
-- Prints one line for the script to read: RESULT requests-per-second p99-in-ms errors.

local requests = {}
local next_one = 0
local sessions

function init(arguments)
   sessions = tonumber(arguments[1]) or 100
   local text = "The quick brown fox jumps over the lazy dog, and then again."
   wrk.method = "POST"
   wrk.headers["Content-Type"] = "application/json"
   for n = 0, sessions - 1 do
      local body = string.format('{"message":"%s","session_id":"bench-%04d"}', text, n)
      requests[n] = wrk.format(nil, "/api/chat", nil, body)
   end
end

function request()
   next_one = (next_one + 1) % sessions
   return requests[next_one]
end

function done(summary, latency, _)
   local e = summary.errors
   local errors = e.connect + e.read + e.write + e.status + e.timeout
   local seconds = summary.duration / 1e6
   local p99 = latency:percentile(99) / 1e3
   io.write(string.format("RESULT %.0f %.3f %d\n", summary.requests / seconds, p99, errors))
end
