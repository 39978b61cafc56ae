//! SIP (RFC 3261): Trunkline as an extension or a trunk of any PBX.

pub mod dial_plan;
