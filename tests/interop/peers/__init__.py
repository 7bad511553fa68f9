"""Plain peers of the Streamer protocol, written on grpcio alone: they never heard of the profile."""
