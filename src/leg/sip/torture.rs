//! The messages of RFC 4475, and what becomes of each here.
//!
//! They lie in `tests/sip/torture`, byte for byte as the RFC has them where it prints them. Where it tells how to make
//! the bytes instead (`<repeat>`, `<hex>`, `<allOneLine>`), or where the print leaves something open, they were made
//! again after it, and the table says so.

use std::borrow::Cow;

use crate::leg::sip::{
    Item, MAX_DATAGRAM, MAX_HEADERS, Malformed, Message, Method, Name, NameAddr, Request, Scheme, Splitter, Via, parse,
};

struct Torture {
    name: &'static str,
    clause: &'static str,
    bytes: &'static [u8],
    /// How sure we are of them.
    source: Source,
    treatment: Treatment,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    /// The RFC prints them, and the length that the message has is the one that it tells.
    Print,
    /// Made again after the RFC's description.
    Made,
}

/// What becomes of a message in a reader; what a line makes of it later is for the line's own tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Treatment {
    Read,
    Answered(u16),
    Dropped,
}

use Source::{Made, Print};
use Treatment::{Answered, Dropped, Read};

macro_rules! messages {
    ($($name:literal $clause:literal $source:ident $treatment:expr,)*) => {
        const MESSAGES: &[Torture] = &[$(Torture {
            name: $name,
            clause: $clause,
            bytes: include_bytes!(concat!("../../../tests/sip/torture/", $name, ".sip")),
            source: $source,
            treatment: $treatment,
        },)*];
    };
}

messages! {
    "wsinv" "3.1.1.1" Print Read,
    // <hex> and <allOneLine>
    "intmeth" "3.1.1.2" Made Read,
    "esc01" "3.1.1.3" Print Read,
    "escnull" "3.1.1.4" Print Read,
    "esc02" "3.1.1.5" Print Read,
    "lwsdisp" "3.1.1.6" Print Read,
    // <repeat>
    "longreq" "3.1.1.7" Made Read,
    // How many line breaks part the two is open; the second is nobody's.
    "dblreq" "3.1.1.8" Made Read,
    "semiuri" "3.1.1.9" Print Read,
    "transports" "3.1.1.10" Print Read,
    // <hex>; the length is the one that it tells.
    "mpart01" "3.1.1.11" Made Read,
    // <hex>
    "unreason" "3.1.1.12" Made Read,
    // <hex>: the space behind the status
    "noreason" "3.1.1.13" Made Read,
    "badinv01" "3.1.2.1" Print Answered(400),
    "clerr" "3.1.2.2" Print Answered(400),
    "ncl" "3.1.2.3" Print Answered(400),
    // <repeat>
    "scalar02" "3.1.2.4" Made Answered(400),
    "scalarlg" "3.1.2.5" Print Dropped,
    "quotbal" "3.1.2.6" Print Answered(400),
    "ltgtruri" "3.1.2.7" Print Answered(400),
    "lwsruri" "3.1.2.8" Print Answered(400),
    "lwsstart" "3.1.2.9" Print Answered(400),
    // <hex>: the two spaces at the end
    "trws" "3.1.2.10" Made Answered(400),
    "escruri" "3.1.2.11" Print Answered(400),
    // The RFC leaves it to whoever needs the date, and we do not.
    "baddate" "3.1.2.12" Print Read,
    "regbadct" "3.1.2.13" Print Answered(400),
    // It may be accepted; the RFC would not have it so from a UAC that is correct, and we take neither.
    "badaspec" "3.1.2.14" Print Answered(400),
    "baddn" "3.1.2.15" Print Answered(400),
    "badvers" "3.1.2.16" Print Answered(505),
    "mismatch01" "3.1.2.17" Print Answered(400),
    "mismatch02" "3.1.2.18" Print Answered(501),
    "bigcode" "3.1.2.19" Print Dropped,
    // A branch that says nothing is for the transactions to see.
    "badbranch" "3.2.1" Print Read,
    "insuf" "3.3.1" Print Answered(400),
    "unkscm" "3.3.2" Print Answered(416),
    "novelsc" "3.3.3" Print Answered(416),
    "unksm2" "3.3.4" Print Read,
    // From here on the line decides: 420, 415, 401.
    "bext01" "3.3.5" Print Read,
    "invut" "3.3.6" Print Read,
    "regaut01" "3.3.7" Print Read,
    // Its length is not that of its body as it is printed; it is refused for what it is about.
    "multi01" "3.3.8" Made Answered(400),
    "mcl01" "3.3.9" Print Answered(400),
    // No transaction will know it.
    "bcast" "3.3.10" Print Read,
    "zeromf" "3.3.11" Print Read,
    "cparam01" "3.3.12" Print Read,
    "cparam02" "3.3.13" Print Read,
    "regescrt" "3.3.14" Print Read,
    // 406 by the line, where it needs a body in the answer.
    "sdp01" "3.3.15" Print Read,
    "inv2543" "3.4.1" Print Read,
}

fn torture(name: &str) -> &'static [u8] {
    MESSAGES.iter().find(|message| message.name == name).map(|message| message.bytes).expect("a message of the table")
}

fn request(name: &str) -> Request {
    match parse(torture(name)) {
        Ok(Message::Request(request)) => request,
        other => panic!("{name}: {other:?}"),
    }
}

fn refused(name: &str) -> Malformed {
    parse(torture(name)).expect_err(name)
}

#[test]
fn each_message_of_rfc_4475_gets_what_it_should() {
    assert_eq!(MESSAGES.len(), 49);
    for Torture { name, clause, bytes, source, treatment } in MESSAGES {
        let got = match parse(bytes) {
            Ok(message) => {
                assert_eq!(parse(&written(&message)), Ok(message), "{name} is written as it was read");
                Read
            }
            Err(malformed) => malformed.status().map_or(Dropped, Answered),
        };
        assert_eq!(got, *treatment, "{clause} {name} ({source:?}): {:?}", parse(bytes));
    }
}

#[test]
fn the_sender_is_told_what_is_wrong() {
    for (name, words) in [
        ("badinv01", "Via: empty parameter"),
        ("clerr", "Content-Length is more than there is"),
        ("ncl", "Content-Length is no number"),
        ("scalar02", "CSeq is no number below 2147483648"),
        ("quotbal", "To: quoted string is not closed"),
        ("ltgtruri", "URI has a strange character"),
        ("lwsruri", "URI has a space"),
        ("lwsstart", "request line has more than one space between its parts"),
        ("trws", "request line ends in a space"),
        ("escruri", "Request-URI has headers"),
        ("regbadct", "Contact: URI needs angle brackets"),
        ("badaspec", "To: URI has a space"),
        ("baddn", "From: display name needs quotes"),
        ("badvers", "Version Not Supported"),
        ("mismatch01", "CSeq is of another method"),
        ("insuf", "From is missing"),
        ("unkscm", "Unsupported URI Scheme"),
        ("multi01", "From: it is there twice"),
        ("mcl01", "Content-Length: it is there twice"),
    ] {
        let response = refused(name).response().expect(name);
        assert_eq!(response.reason, words, "{name}");
    }
}

#[test]
fn an_answer_has_what_its_request_had() {
    let answer = refused("insuf").response().expect("an answer");
    assert_eq!(answer.headers.get(&Name::Via), Some("SIP/2.0/UDP 192.0.2.95;branch=z9hG4bKkdj.insuf"));
    assert_eq!((answer.headers.get(&Name::CSeq), answer.headers.len()), (Some("193942 INVITE"), 2));
    let answer = refused("badvers").response().expect("an answer");
    assert_eq!(answer.headers.get(&Name::Via), Some("SIP/7.0/UDP c.example.com;branch=z9hG4bKkdjuw"));
    // Of headers that are there twice both come back: which one counts is the sender's to know.
    let answer = refused("multi01").response().expect("an answer");
    assert_eq!(answer.headers.all(&Name::CSeq).collect::<Vec<_>>(), ["5 INVITE", "59 INVITE"]);
}

#[test]
fn the_short_tortuous_invite_is_understood() {
    let invite = request("wsinv");
    assert_eq!((invite.method.clone(), invite.uri.params.has("unknownparam")), (Method::Invite, true));
    let to = invite.to().expect("To");
    assert_eq!((to.uri.user.as_deref(), to.tag()), (Some("vivekg"), Some("1918181833n")));
    let from = invite.from().expect("From");
    assert_eq!((from.display.as_deref(), from.tag()), (Some("J Rosenberg \\\""), Some("98asjd8")));
    assert_eq!((invite.max_forwards(), invite.cseq().map(|cseq| cseq.number)), (Some(68), Ok(9)));
    let vias: Vec<Via> = invite.headers.list(&Name::Via).filter_map(|via| via.parse().ok()).collect();
    let vias: Vec<_> = vias.iter().map(|via| (via.transport.as_str(), via.host.as_str(), via.branch())).collect();
    assert_eq!(
        vias,
        [
            ("UDP", "192.0.2.2", Some("390skdjuw")),
            ("TCP", "spindle.example.com", Some("z9hG4bK9ikj8")),
            ("UDP", "192.168.255.111", Some("z9hG4bK30239")),
        ]
    );
    assert_eq!(invite.headers.get(&Name::Subject), Some(""));
    assert_eq!(invite.headers.get(&"NEWFANGLEDHEADER".into()), Some("newfangled value continued newfangled value"));
    assert_eq!(invite.headers.get(&"UnknownHeaderWithUnusualValue".into()), Some(";;,,;;,;"));
    let contact = invite.contact().expect("Contact");
    assert_eq!((contact.display.as_deref(), contact.params.get("q")), (Some("Quoted string \"\""), Some("0.33")));
    assert_eq!((contact.params.get("newparam"), contact.params.get("secondparam")), (Some("newvalue"), Some("")));
    let route: NameAddr = invite.headers.get(&Name::Route).and_then(|route| route.parse().ok()).expect("Route");
    assert!(route.uri.is_loose() && route.uri.params.get("unknownwith") == Some("value"));
    assert_eq!(invite.body.len(), 150);
}

#[test]
fn the_wide_range_of_valid_characters_is_understood() {
    // As long as the program of another implementation that has it as a constant.
    assert_eq!(torture("intmeth").len(), 641);
    let odd = request("intmeth");
    assert_eq!(odd.method, Method::Other("!interesting-Method0123456789_*+`.%indeed'~".to_owned()));
    assert_eq!(odd.uri.user.as_deref(), Some("1_unusual.URI~(to-be!sure)&isn't+it$/crazy?,/;;*"));
    assert_eq!(odd.uri.password.as_deref(), Some("&it+has=1,weird!*pas$wo~d_too.(doesn't-it)"));
    assert_eq!(odd.to().map(|to| to.display), Ok(Some("BEL:\x07 NUL:\0 DEL:\x7f".to_owned())));
    let from = odd.from().expect("From");
    assert_eq!(from.display.as_deref(), Some("token1~` token2'+_ token3*%!.-"));
    assert_eq!(from.params.unquoted("fromParam''~+*_!.-%").as_deref(), Some("работающий"));
    assert_eq!(from.tag(), Some("_token~1'+`*%!-."));
    assert_eq!(odd.call_id(), Some("intmeth.word%ZK-!.*_+'@word`~)(><:\\/\"][?}{"));
    assert_eq!(odd.via().map(|via| via.branch().map(str::to_owned)), Ok(Some("z9hG4bK-.!%66*_+`'~".to_owned())));
}

#[test]
fn escapes_are_escapes_only_where_they_may_be() {
    let escaped = request("esc01");
    assert_eq!(escaped.uri.decoded_user().as_deref(), Some("sips:user@example.com"));
    assert_eq!((escaped.uri.scheme.clone(), escaped.uri.host.as_str()), (Scheme::Sip, "example.net"));
    let to = escaped.to().expect("To");
    assert!(to.uri.is_equivalent(&"sip:user@example.com".parse().expect("a URI")));
    assert_eq!(
        escaped.from().ok().and_then(|from| from.uri.decoded_user().map(Cow::into_owned)),
        Some("I have spaces".to_owned())
    );

    let nulls = request("escnull");
    let users: Vec<NameAddr> = nulls.headers.list(&Name::Contact).filter_map(|one| one.parse().ok()).collect();
    assert_eq!(users[0].uri.decoded_user().as_deref(), Some("\0"));
    assert_eq!(users[1].uri.decoded_user().as_deref(), Some("\0\0"));
    assert!(!users[0].uri.is_equivalent(&users[1].uri));

    // A method and a header name have no escapes, nor has a display name.
    let literal = request("esc02");
    assert_eq!(literal.method, Method::Other("RE%47IST%45R".to_owned()));
    assert_eq!(literal.headers.all(&Name::Contact).count(), 2);
    assert_eq!(literal.to().map(|to| to.display), Ok(Some("%Z%45".to_owned())));
}

#[test]
fn the_rest_that_is_valid_is_understood() {
    let folded = request("semiuri");
    assert_eq!(folded.uri.decoded_user().as_deref(), Some("user;par=u@example.net"));
    assert_eq!(folded.headers.list(&Name::Accept).count(), 6);
    let long = request("longreq");
    assert_eq!(long.headers.list(&Name::Via).filter(|via| via.parse::<Via>().is_ok()).count(), 34);
    let double = request("dblreq");
    assert_eq!((double.method.clone(), double.body.len()), (Method::Register, 0));
    let multipart = request("mpart01");
    assert_eq!((multipart.content_type(), multipart.body.len()), (Some("multipart/mixed"), 553));
    let unknown = request("unksm2");
    assert_eq!(unknown.to().map(|to| to.uri.scheme), Ok(Scheme::Other("isbn".to_owned())));
    // Without brackets the parameter is the header's, with them the URI's.
    let contact = request("cparam01").contact().expect("Contact");
    assert!(contact.params.has("unknownparam") && contact.uri.params.is_empty());
    let contact = request("cparam02").contact().expect("Contact");
    assert!(contact.params.is_empty() && contact.uri.params.has("unknownparam"));
    let contact = request("regescrt").contact().expect("Contact");
    assert_eq!(contact.uri.header("route").as_deref(), Some("<sip:sip.example.com>"));
    assert_eq!(request("zeromf").max_forwards(), Some(0));
    let old = request("inv2543");
    assert_eq!((old.from().map(|from| from.tag().map(str::to_owned)), old.body.len()), (Ok(None), 105));

    let Ok(Message::Response(odd)) = parse(torture("unreason")) else { panic!("a response") };
    assert_eq!((odd.status, odd.reason.as_str()), (200, "= 2**3 * 5**2 но сто девяносто девять - простое"));
    let Ok(Message::Response(mute)) = parse(torture("noreason")) else { panic!("a response") };
    assert_eq!((mute.status, mute.reason.as_str()), (100, ""));
}

/// Every one of them is on a stream what it is in a datagram, but for those whose length is what is wrong.
#[test]
fn a_stream_of_torture_is_cut_where_it_should_be() {
    for Torture { name, bytes, treatment, .. } in MESSAGES {
        if matches!(*name, "clerr" | "ncl" | "mcl01" | "multi01" | "inv2543" | "dblreq") {
            continue;
        }
        let mut splitter = Splitter::new();
        let mut items = vec![];
        for byte in *bytes {
            assert_eq!(splitter.feed(&[*byte]), 1);
            items.extend(core::iter::from_fn(|| splitter.poll()));
        }
        let got = match &items[..] {
            [Item::Message(message)] => {
                assert_eq!(parse(bytes).as_ref(), Ok(message), "{name}");
                Read
            }
            [Item::Malformed(malformed) | Item::Lost(malformed)] => malformed.status().map_or(Dropped, Answered),
            other => panic!("{name}: {other:?}"),
        };
        assert_eq!(got, *treatment, "{name}");
    }
}

#[test]
fn mutated_messages_do_no_harm_and_say_the_same_when_written_again() {
    let originals: Vec<&[u8]> = MESSAGES.iter().map(|message| message.bytes).chain(PEERS.repeat(4)).collect();
    let mut dice = Dice(0x5150_2f32_2e30_0d0a);
    let (mut read, mut answered, mut dropped) = (0, 0, 0);
    for _ in 0..20_000 {
        let mut bytes = originals[dice.up_to(originals.len())].to_vec();
        for _ in 0..=dice.up_to(2) {
            mutate(&mut bytes, &originals, &mut dice);
        }
        match parse(&bytes) {
            Ok(message) => {
                read += 1;
                check_message(&message, &bytes);
            }
            Err(malformed) => match malformed.response() {
                Some(answer) => {
                    answered += 1;
                    let out = written(&answer.clone().into());
                    let lines = out.split(|byte| *byte == b'\n').count();
                    assert_eq!(lines, answer.headers.len() + 4, "{}", out.escape_ascii());
                    assert!(out.len() <= bytes.len() * 3 + 1_000, "an answer is no amplifier");
                }
                None => dropped += 1,
            },
        }
    }
    // The mutations are such that all three ways are gone.
    assert!(read > 4_000 && answered > 4_000 && dropped > 500, "{read} {answered} {dropped}");
}

fn check_message(message: &Message, bytes: &[u8]) {
    assert!(bytes.len() <= MAX_DATAGRAM && message.headers().len() <= MAX_HEADERS);
    let headers = message.headers();
    assert!(headers.via().is_ok() && headers.cseq().is_ok() && headers.call_id().is_some());
    for address in [headers.from(), headers.to()] {
        let address = address.expect("it was checked");
        assert_eq!(address.to_string().parse().as_ref(), Ok(&address));
    }
    let via = headers.via().expect("it was checked");
    assert_eq!(via.to_string().parse().as_ref(), Ok(&via));
    let again = written(message);
    // Short names are written in full, so that it may become too long.
    if again.len() <= MAX_DATAGRAM {
        assert_eq!(parse(&again).as_ref(), Ok(message), "{}", again.escape_ascii());
    }
}

fn mutate(bytes: &mut Vec<u8>, originals: &[&[u8]], dice: &mut Dice) {
    let at = dice.up_to(bytes.len() + 1);
    match dice.up_to(12) {
        0 if at < bytes.len() => bytes[at] ^= 1 << dice.up_to(8),
        1 if at < bytes.len() => bytes[at] = dice.up_to(256) as u8,
        2 => {
            bytes.drain(at..bytes.len().min(at + 1 + dice.up_to(20)));
        }
        3 => bytes.truncate(at),
        4..7 => {
            let token = TOKENS[dice.up_to(TOKENS.len())];
            bytes.splice(at..at, token.iter().copied());
        }
        7 => {
            let other = originals[dice.up_to(originals.len())];
            let from = dice.up_to(other.len());
            let piece = &other[from..other.len().min(from + dice.up_to(200))];
            bytes.splice(at..at, piece.iter().copied());
        }
        _ => {
            let lines: Vec<Vec<u8>> = bytes.split_inclusive(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect();
            if !lines.is_empty() {
                let line = lines[dice.up_to(lines.len())].clone();
                let to: usize = lines[..dice.up_to(lines.len())].iter().map(Vec::len).sum();
                bytes.splice(to..to, line);
            }
        }
    }
}

fn written(message: &Message) -> Vec<u8> {
    let mut out = vec![];
    message.write(&mut out);
    out
}

/// xorshift64.
struct Dice(u64);

impl Dice {
    fn up_to(&mut self, below: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 20) as usize % below.max(1)
    }
}

const PEERS: &[&[u8]] = &[
    include_bytes!("../../../tests/sip/peers/asterisk.sip"),
    include_bytes!("../../../tests/sip/peers/freeswitch.sip"),
    include_bytes!("../../../tests/sip/peers/sipp.sip"),
    include_bytes!("../../../tests/sip/peers/baresip.sip"),
    include_bytes!("../../../tests/sip/peers/cisco.sip"),
];

const TOKENS: &[&[u8]] = &[
    b"\r\n",
    b"\n",
    b"\r",
    b"\r\n ",
    b"\r\n\t",
    b"\r\n\r\n",
    b"\"",
    b"\\",
    b"\\\"",
    b"<",
    b">",
    b";",
    b";;",
    b",",
    b"=",
    b"%",
    b"%00",
    b"%4",
    b"@",
    b":",
    b"?",
    b"&",
    b"[",
    b"]",
    b"[::1]",
    b" ",
    b"\t",
    b"\0",
    b"\xff",
    b"\xc3\xa9",
    b"*",
    b"-1",
    b"4294967296",
    b"SIP/2.0",
    b"sip:",
    b"tel:",
    b"ACK",
    b"INVITE",
    b"Via: ",
    b"v:",
    b"l: 0\r\n",
    b"Content-Length: 5\r\n",
    b";tag=1",
    b";rport",
    b"\xc2\xa0",
];
