//! From the agent up to the proxy: registration, heartbeats, answers.
