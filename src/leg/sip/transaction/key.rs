//! How a message finds its transaction.
//!
//! What identifies a transaction is text of the peer's choosing and length. It is hashed with a secret of ours, so that a
//! key has a fixed size and nobody can make two requests meet under one.

use std::hash::{DefaultHasher, Hasher};

/// A hash of what identifies something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key(u64, u64);

/// Makes keys.
#[derive(Debug)]
pub(super) struct Keys {
    secrets: [u64; 2],
}

impl Keys {
    pub(super) fn new(secrets: [u64; 2]) -> Self {
        Self { secrets }
    }

    /// The key of `parts`. Where one part ends is part of it.
    pub(super) fn of(&self, kind: Kind, parts: &[&str]) -> Key {
        let [one, other] = self.secrets.map(|secret| {
            let mut hasher = DefaultHasher::new();
            hasher.write_u64(secret);
            hasher.write_u8(kind as u8);
            for part in parts {
                hasher.write_usize(part.len());
                hasher.write(part.as_bytes());
            }
            hasher.finish()
        });
        Key(one, other)
    }

    /// A tag for an answer that no transaction remembers: the same for each copy of the request, RFC 3261 8.2.7.
    pub(super) fn tag(&self, parts: &[&str]) -> String {
        let Key(one, _) = self.of(Kind::Tag, parts);
        format!("{one:016x}")
    }
}

/// What a key stands for: the same text means different things.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    /// A request that came to us.
    Server,
    /// The same request by another way.
    Merge,
    /// A request of ours.
    Client,
    /// One of several answers to an INVITE.
    Fork,
    /// A tag of ours.
    Tag,
}
