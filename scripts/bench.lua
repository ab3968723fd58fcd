-- What wrk sends for scripts/bench, over as many sessions as the first argument says (100), one after the other:
-- POST /api/chat with 60 characters of text or, if the second argument is `history`, GET of the newest 50 messages.
-- Prints one line for the script to read: WRK requests-per-second p50-in-ms p99-in-ms errors.

local requests = {}
local next_one = 0
local sessions

function init(arguments)
   sessions = tonumber(arguments[1]) or 100
   local text = "The quick brown fox jumps over the lazy dog, and then again."
   wrk.headers["Content-Type"] = "application/json"
   for n = 0, sessions - 1 do
      local session = string.format("bench-%04d", n)
      if arguments[2] == "history" then
         requests[n] = wrk.format("GET", "/api/chat/history?limit=50&session_id=" .. session)
      else
         local body = string.format('{"message":"%s","session_id":"%s"}', text, session)
         requests[n] = wrk.format("POST", "/api/chat", nil, body)
      end
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
   local p50, p99 = latency:percentile(50) / 1e3, latency:percentile(99) / 1e3
   io.write(string.format("WRK %.0f %.3f %.3f %d\n", summary.requests / seconds, p50, p99, errors))
end
