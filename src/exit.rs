//! How the process ends, by the conventions of sysexits.

/// All went well.
pub const OK: u8 = 0;
/// Something failed.
pub const FAILED: u8 = 1;
/// The config, a credential or a port is at fault (EX_CONFIG): systemd does not start us again on it.
pub const CONFIG: u8 = 78;
