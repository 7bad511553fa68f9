//! Reads endpoints into the record.
