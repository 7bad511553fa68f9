//! The agent: scrapes, records, answers.
