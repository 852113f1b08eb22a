"""10,000 devices and 1,000 streams: server time, memory, bytes, and where one process ends."""
