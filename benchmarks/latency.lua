done = function(summary, latency, requests)
  io.write(string.format("RESULT %d %d %d %d %d\n", summary.requests, summary.errors.status,
    latency:percentile(50), latency:percentile(99), latency:percentile(99.9)))
end
