//! The changes that damage took from the log before the index knew of them.

use redb::{ReadTransaction, WriteTransaction};

use super::engine::{number, set_number};
use crate::log::{LogError, encoding::DecodeError, ingest::DocumentState};

/// The lost changes of all documents.
///
/// Which documents they changed is unknown. A document that has not changed since may therefore be another
/// one than the log knows, or may exist although the log has never seen it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct LostChanges {
    /// The offset of the last one; 0 if there is none.
    upto: u64,
    count: u64,
}

const UPTO: &str = "lost_upto";
const COUNT: &str = "lost_count";

impl LostChanges {
    /// Reads what the index knows, which has the documents up to `applied_upto`.
    pub(super) fn read(transaction: &ReadTransaction, applied_upto: u64) -> Result<Self, LogError> {
        let read = |name| match number(transaction, name) {
            // Written with the first loss.
            Err(LogError::DamagedState {
                source: DecodeError::Missing,
                ..
            }) => Ok(0),
            Err(error @ LogError::DamagedState { .. }) => {
                tracing::error!(%error, "no document is certain before its next change");
                Ok(applied_upto)
            }
            number => number,
        };
        Ok(Self {
            upto: read(UPTO)?,
            count: read(COUNT)?,
        })
    }

    pub(super) fn write(self, transaction: &WriteTransaction) -> Result<(), LogError> {
        if self.upto > 0 {
            set_number(transaction, UPTO, self.upto)?;
            set_number(transaction, COUNT, self.count)?;
        }
        Ok(())
    }

    /// Adds the changes after `after`, up to `upto`.
    pub(super) const fn add(&mut self, after: u64, upto: u64) {
        if upto > after {
            self.upto = upto;
            self.count += upto - after;
        }
    }

    /// Returns the number of them.
    pub(super) const fn count(self) -> u64 {
        self.count
    }

    /// Returns the state from which a document continues: the known one, if no change of it can be lost,
    /// and otherwise one that is in doubt. Its versions still increase, because no document has lost more
    /// changes than all together.
    pub(super) fn continued(self, known: Option<DocumentState>) -> Option<DocumentState> {
        match known {
            None if self.upto > 0 => Some(DocumentState::unknown(self.count)),
            Some(state) if state.offset <= self.upto => Some(DocumentState {
                version: state.version + self.count,
                offset: 0,
                ..state
            }),
            certain => certain,
        }
    }
}
