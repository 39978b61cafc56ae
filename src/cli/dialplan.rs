//! `trunkline dialplan`: what the PBX needs for the config in use, ready to be pasted.
//!
//! The pieces are those of the README, the docs and the example configs themselves, with this config's addresses put in
//! the place of theirs. So what is printed cannot say otherwise than what is written there.

use core::net::{IpAddr, SocketAddr};
use std::{io::Write as _, path::PathBuf};

use crate::{
    config::{self, Config, Line, LineKind, Origin, Problems, ProcessEnvironment, SipLine, WebsocketLine},
    media::Rate,
};

/// Prints what the PBX needs for the lines of this config: dialplan, endpoints, gateways.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct DialplanArgs {
    /// Only for this line
    #[arg(value_name = "LINE")]
    pub line: Option<String>,
    /// The number that callers dial to reach the agent
    #[arg(long, value_name = "NUMBER", default_value = "700", value_parser = parse_number)]
    pub number: String,
    /// The config file
    #[arg(long, value_name = "FILE", default_value = "/etc/trunkline/trunkline.toml")]
    pub config: PathBuf,
}

const EXAMPLES: &str = "\
  trunkline dialplan
  trunkline dialplan pbx --number 7000
  trunkline dialplan --config configs/sip-trunk.toml

What stands behind `;` is a comment to Asterisk, and what stands in <!-- --> to FreeSWITCH: all of it may be pasted.
docs/asterisk.md, docs/freeswitch.md and docs/sip.md have the reasons.";

fn parse_number(text: &str) -> Result<String, String> {
    let is_number = !text.is_empty() && text.len() <= 32 && text.bytes().all(|byte| byte.is_ascii_digit());
    if is_number { Ok(text.to_owned()) } else { Err("wanted digits, as in 700".to_owned()) }
}

/// Prints it.
///
/// # Errors
/// The config is wrong, or has no such line.
pub fn dialplan(args: &DialplanArgs) -> Result<(), DialplanError> {
    let config = config::load(&args.config, &ProcessEnvironment).map_err(DialplanError::Config)?;
    if let Some(name) = &args.line {
        let names: Vec<_> = config.lines.iter().map(|line| line.name.as_str()).collect();
        if !names.contains(&name.as_str()) {
            return Err(DialplanError::NoLine(config::no_such("line", name, &names)));
        }
    }
    let text: Vec<_> = pieces(&config, args.line.as_deref(), &args.number).iter().map(Piece::to_string).collect();
    // A closed pipe is the reader's choice.
    let _ = std::io::stdout().lock().write_all(text.join("\n").as_bytes());
    Ok(())
}

/// Why nothing is printed.
#[derive(Debug)]
pub enum DialplanError {
    /// All that is wrong with the config.
    Config(Problems),
    /// It has no such line; which there are.
    NoLine(String),
}

impl core::fmt::Display for DialplanError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Config(problems) => problems.fmt(f),
            Self::NoLine(words) => f.write_str(words),
        }
    }
}

impl core::error::Error for DialplanError {}

/// Something to paste into one file of one PBX.
struct Piece {
    /// The line that it is for, and the PBX.
    what: String,
    file: String,
    text: String,
    is_xml: bool,
}

impl core::fmt::Display for Piece {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let Self { what, file, text, is_xml } = self;
        match is_xml {
            true => writeln!(f, "<!-- {what}: {file} -->\n{text}"),
            false => writeln!(f, "; {what}: {file}\n{text}"),
        }
    }
}

fn pieces(config: &Config, only: Option<&str>, number: &str) -> Vec<Piece> {
    let mut pieces = Vec::new();
    for Line { name, kind, .. } in config.lines.iter().filter(|line| only.is_none_or(|only| only == line.name)) {
        match kind {
            LineKind::Audiosocket { listen, .. } => pieces.extend(audiosocket(name, *listen, number)),
            LineKind::Sip(sip) => pieces.extend(of_sip(name, sip, number)),
            LineKind::Websocket(line) => pieces.extend(websocket(name, line, number)),
            LineKind::Sound(_) | LineKind::Pipe(_) => {
                pieces.push(asterisk(name, "nothing", format!("; a {} line has no PBX\n", kind.name())));
            }
        }
    }
    pieces
}

fn audiosocket(name: &str, listen: SocketAddr, number: &str) -> Vec<Piece> {
    // The number first: an address may have its digits.
    let place = |text: &str| number_in(text, number).replace(AUDIOSOCKET, &reached(listen));
    let wide = quoted(README, "For wideband write `", "`");
    let wide = format!("; wideband, in the place of AudioSocket(): {}\n", wide.unwrap_or_default());
    let plain = block(README, "ini", "AudioSocket(");
    vec![asterisk(name, "extensions.conf", format!("{}{}", note(listen), place(&(plain + &wide))))]
}

fn of_sip(name: &str, sip: &SipLine, number: &str) -> Vec<Piece> {
    let ip = sip.advertise.unwrap_or(sip.listen.ip());
    let address = match (ip, sip.listen.port()) {
        (ip, 5060) => shown(ip),
        (ip, port) => format!("{}:{port}", shown(ip)),
    };
    let place = |text: &str| {
        let text = number_in(text, number).replace(&format!("sip:{SIP}"), &format!("sip:{address}"));
        let text = text.replace(&format!("\"proxy\" value=\"{SIP}\""), &format!("\"proxy\" value=\"{address}\""));
        text.replace(SIP, &ip.to_string())
    };
    if let Some(register) = &sip.register {
        let user = |text: String| place(&text).replace("201", &register.user);
        vec![
            asterisk(name, "pjsip.conf", user(block(PAGE, "ini", "type = aor\nmax_contacts"))),
            freeswitch(
                name,
                &format!("conf/directory/default/{}.xml", register.user),
                user(block(PAGE, "xml", "<user id=")),
            ),
        ]
    } else {
        vec![
            asterisk(name, "pjsip.conf", place(&block(PAGE, "ini", "type = identify"))),
            asterisk(name, "extensions.conf", place(&block(PAGE, "ini", "@trunkline)"))),
            freeswitch(name, "conf/sip_profiles/external/trunkline.xml", place(&block(PAGE, "xml", "<gateway "))),
            freeswitch(name, "conf/dialplan/default/trunkline.xml", place(&block(PAGE, "xml", "sofia/gateway/"))),
        ]
    }
}

fn websocket(name: &str, line: &WebsocketLine, number: &str) -> Vec<Piece> {
    let listen = match &line.origin {
        Origin::Listen(listen) => listen,
        Origin::Dial(trunk) if trunk.dialect == "asterisk" => {
            let text = commented(ASTERISK, "exten => 701", "Return()").replace("dial pbx ", &format!("dial {name} "));
            return vec![asterisk(name, "extensions.conf", text.replace("701", number))];
        }
        Origin::Dial(_) => return Vec::new(),
    };
    let scheme = if listen.tls.is_some() { "wss" } else { "ws" };
    let mut pieces = Vec::new();
    for path in &listen.paths {
        let url = format!("{scheme}://{}{}", reached(listen.address), path.path);
        match path.dialect {
            Some("asterisk") => {
                let client = commented(ASTERISK, "[trunkline]", "password = ").replace(ASTERISK_URL, &url);
                let plan = commented(ASTERISK, "exten => 700", "Hangup()");
                pieces.push(asterisk(name, "websocket_client.conf", format!("{}{client}", note(listen.address))));
                pieces.push(asterisk(name, "extensions.conf", number_in(&plan, number)));
            }
            Some("audiofork") => {
                let rate = path.sample_rate.unwrap_or(Rate::Hz16000).hz().to_string();
                let text = number_in(&commented(FREESWITCH, "<extension ", "</extension>"), number);
                let text = text.replace("16000", &rate).replace(FREESWITCH_URL, &url);
                pieces.push(freeswitch(name, "conf/dialplan/default/trunkline.xml", text));
            }
            // A cloud is told the URL in its own console.
            Some(_) | None => pieces.push(asterisk(name, "nothing", format!("; the vendor's console: {url}\n"))),
        }
    }
    pieces
}

fn asterisk(line: &str, file: &str, text: String) -> Piece {
    Piece { what: format!("line {line}, Asterisk"), file: file.to_owned(), text, is_xml: false }
}

fn freeswitch(line: &str, file: &str, text: String) -> Piece {
    Piece { what: format!("line {line}, FreeSWITCH"), file: file.to_owned(), text, is_xml: true }
}

/// An address as the PBX dials it: one that stands for all of this machine's is not one.
fn reached(listen: SocketAddr) -> String {
    if listen.ip().is_unspecified() { format!("ADDRESS-OF-THIS-MACHINE:{}", listen.port()) } else { listen.to_string() }
}

fn note(listen: SocketAddr) -> &'static str {
    if listen.ip().is_loopback() {
        "; on this machine: another one needs an address in `listen` that it reaches\n"
    } else {
        ""
    }
}

fn shown(ip: IpAddr) -> String {
    if ip.is_ipv6() { format!("[{ip}]") } else { ip.to_string() }
}

/// The number that callers dial in place of that of the examples.
fn number_in(text: &str, number: &str) -> String {
    text.replace("700", number)
}

/// The code block of a page in this language that has these words.
fn block(page: &str, language: &str, words: &str) -> String {
    let fence = format!("```{language}\n");
    let blocks = page.split(&fence).skip(1).filter_map(|rest| rest.split("```").next());
    blocks.filter(|block| block.contains(words)).map(str::to_owned).next().unwrap_or_default()
}

/// What stands in the comments of an example config between these words, without the comments' marks.
fn commented(config: &str, from: &str, to: &str) -> String {
    let lines = config.lines().filter_map(|line| line.strip_prefix('#'));
    let lines: Vec<_> = lines.skip_while(|line| !line.trim_start().starts_with(from)).collect();
    let indent = lines.first().map_or(0, |first| first.len() - first.trim_start().len());
    let len = lines.iter().position(|line| line.contains(to)).map_or(0, |last| last + 1);
    lines[..len].iter().map(|line| format!("{}\n", line.get(indent..).unwrap_or_default())).collect()
}

fn quoted(page: &str, before: &str, after: &str) -> Option<String> {
    Some(page.split_once(before)?.1.split_once(after)?.0.to_owned())
}

const README: &str = include_str!("../../README.md");
const PAGE: &str = include_str!("../../docs/sip.md");
const ASTERISK: &str = include_str!("../../configs/asterisk-websocket.toml");
const FREESWITCH: &str = include_str!("../../configs/freeswitch-audiofork.toml");
/// Addresses of the examples.
const AUDIOSOCKET: &str = "127.0.0.1:9092";
const SIP: &str = "192.0.2.20";
const ASTERISK_URL: &str = "ws://127.0.0.1:8443/asterisk";
const FREESWITCH_URL: &str = "ws://127.0.0.1:8443/freeswitch";

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::fs;

    use super::*;

    fn printed(lines: &str, number: &str) -> String {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t.toml");
        let trunk = "[trunk.agent]\nurl = \"wss://agent.example.com/ws\"\ndialect = \"ozonetel\"\n";
        fs::write(&path, format!("{lines}{trunk}[[route]]\nline = \"pbx\"\ntrunks = [\"agent\"]\n")).unwrap();
        let config = config::load(&path, &ProcessEnvironment).unwrap();
        pieces(&config, None, number).iter().map(Piece::to_string).collect()
    }

    #[test]
    fn an_audiosocket_line_gets_its_own_address() {
        let text = printed(
            "[line.pbx]\nkind = \"audiosocket\"\nlisten = \"192.0.2.9:9093\"\nallow = [\"192.0.2.10\"]\n",
            "7000",
        );
        assert_eq!(
            text,
            "; line pbx, Asterisk: extensions.conf\nexten => 7000,1,Answer()\n same => n,AudioSocket(${UUID()},192.0.2.9:9093)\n \
             same => n,Hangup()\n; wideband, in the place of AudioSocket(): \
             Dial(AudioSocket/192.0.2.9:9093/${UUID()}/c(slin16),,g)\n\n"
        );
    }

    #[test]
    fn a_trunk_and_an_extension_of_sip_get_what_their_page_has_for_them() {
        let trunk =
            printed("[line.pbx]\nkind = \"sip\"\nlisten = \"198.51.100.7:5070\"\nallow = [\"198.51.100.1\"]\n", "700");
        for words in [
            "contact = sip:198.51.100.7:5070\n",
            "match = 198.51.100.7\n",
            "direct_media = no\n",
            "exten => 700,1,Dial(PJSIP/700@trunkline)\n",
            "<param name=\"proxy\" value=\"198.51.100.7:5070\"/>\n",
            "sofia/gateway/trunkline/700",
        ] {
            assert!(trunk.contains(words), "{words} is not in:\n{trunk}");
        }
        let extension = printed(
            "[line.pbx]\nkind = \"sip\"\nlisten = \"198.51.100.7:5070\"\n[line.pbx.register]\nregistrar = \
             \"sip:198.51.100.1\"\nuser = \"314\"\n",
            "700",
        );
        for words in ["[314]\ntype = endpoint\n", "username = 314\n", "<user id=\"314\">", "default/314.xml"] {
            assert!(extension.contains(words), "{words} is not in:\n{extension}");
        }
        assert!(![trunk, extension].concat().contains(SIP), "an address of the examples is left");
    }

    #[test]
    fn websocket_lines_get_the_url_of_their_path() {
        let text = printed(
            "[line.pbx]\nkind = \"websocket\"\nlisten = \"127.0.0.1:8500\"\nplain = true\npath = [{ path = \"/a\", dialect = \
             \"asterisk\" }, { path = \"/f\", dialect = \"audiofork\", sample-rate = 8000 }, { path = \"/x\" }]\n",
            "710",
        );
        for words in [
            "[trunkline]\ntype = websocket_client\nuri = ws://127.0.0.1:8500/a\n",
            "exten => 710,1,NoOp(the agent)\n same => n,Answer()\n",
            "start ws://127.0.0.1:8500/f mono 8000 trunkline",
            "^710$",
            "the vendor's console: ws://127.0.0.1:8500/x",
        ] {
            assert!(text.contains(words), "{words} is not in:\n{text}");
        }
        let fetched = printed(
            "[line.pbx]\nkind = \"websocket\"\ndial = \"ws://127.0.0.1:8088/media/{id}\"\ndialect = \"asterisk\"\n",
            "701",
        );
        assert!(fetched.contains("trunkline dial pbx ${MEDIA_WEBSOCKET_CONNECTION_ID}"), "{fetched}");
        assert!(fetched.contains("\n[fetch]\nexten => s,1,System("), "{fetched}");
    }
}
