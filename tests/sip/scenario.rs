//! A scenario of sipp, written step by step.
//!
//! What sipp itself would have in each file again, `Via`, `From`, `To`, `Call-ID`, `CSeq`, is written here once; what a test
//! is about stands in the test. [`Scenario::xml`] is an ordinary scenario file, that plays against any PBX.
//!
//! sipp goes through it strictly: an answer that is not the next one fails the call.

use std::fmt::Write as _;

/// PCMU and key presses, to where sipp's own stream comes from.
pub(crate) const SDP: &str = "v=0\n\
    o=sipp 7 1 IN IP4 [local_ip]\n\
    s=-\n\
    c=IN IP4 [local_ip]\n\
    t=0 0\n\
    m=audio [rtpstream_audio_port] RTP/AVP 0 101\n\
    a=rtpmap:0 PCMU/8000\n\
    a=rtpmap:101 telephone-event/8000\n\
    a=fmtp:101 0-15\n\
    a=ptime:20\n";

/// The same offer in its n-th version, with more lines at its end, and another connection address if it is given.
pub(crate) fn offer(version: u32, connection: Option<&str>, more: &str) -> String {
    let mut sdp = SDP.replace("7 1 IN", &format!("7 {version} IN"));
    if let Some(address) = connection {
        sdp = sdp.replace("c=IN IP4 [local_ip]", &format!("c=IN IP4 {address}"));
    }
    for line in more.lines() {
        writeln!(sdp, "{}", line.trim()).unwrap();
    }
    sdp
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    /// sipp calls.
    Caller,
    /// sipp is called.
    Callee,
}

/// The steps so far.
pub(crate) struct Scenario {
    role: Role,
    steps: String,
    /// What is waited for and what it has to have, until the next step shows that there is no more to it.
    waiting: Option<Waiting>,
    /// Variables, of which sipp insists that each is used.
    taken: Vec<String>,
    /// Of the last request that sipp has sent.
    cseq: u32,
    /// Of the last INVITE.
    invite: u32,
    /// Whether that was a re-INVITE.
    is_again: bool,
    /// Whether what comes has sipp's own tag in `To` already.
    is_tagged: bool,
    /// Header names of one letter, RFC 3261 7.3.3.
    compact: bool,
}

struct Waiting {
    attributes: String,
    actions: String,
}

impl Scenario {
    /// sipp calls.
    pub(crate) fn caller() -> Self {
        Self::new(Role::Caller)
    }

    /// sipp is called.
    pub(crate) fn callee() -> Self {
        Self::new(Role::Callee)
    }

    fn new(role: Role) -> Self {
        let (steps, taken) = (String::new(), Vec::new());
        // What comes to a caller comes in the dialog that it has begun.
        let (is_again, is_tagged, compact) = (false, role == Role::Caller, false);
        Self { role, steps, waiting: None, taken, cseq: 0, invite: 0, is_again, is_tagged, compact }
    }

    /// From here on header names have one letter where there is one.
    pub(crate) fn compact(mut self) -> Self {
        self.compact = true;
        self
    }

    /// The file.
    pub(crate) fn xml(&self) -> String {
        assert!(self.waiting.is_none(), "a scenario ends with `end`");
        let mut xml = String::from("<?xml version=\"1.0\" encoding=\"ISO-8859-1\" ?>\n<scenario name=\"trunkline\">\n");
        xml.push_str(&self.steps);
        if !self.taken.is_empty() {
            writeln!(xml, "  <Reference variables=\"{}\"/>", self.taken.join(",")).unwrap();
        }
        xml.push_str("</scenario>\n");
        xml
    }

    /// That is all.
    pub(crate) fn end(mut self) -> Self {
        self.flush();
        self
    }

    // What sipp sends

    /// A request of its own, outside of any dialog: with these header lines more and this body.
    pub(crate) fn request(mut self, method: &str, headers: &str, body: &str) -> Self {
        self.cseq += 1;
        if method == "INVITE" {
            (self.invite, self.is_again) = (self.cseq, false);
        }
        let text = self.text(method, self.cseq, self.cseq, false, headers, body);
        self.send(&text, true)
    }

    pub(crate) fn invite(self, headers: &str, body: &str) -> Self {
        self.request("INVITE", &format!("Content-Type: application/sdp\n{headers}"), body)
    }

    /// A request in the dialog.
    pub(crate) fn within(mut self, method: &str, headers: &str, body: &str) -> Self {
        self.cseq += 1;
        if method == "INVITE" {
            (self.invite, self.is_again) = (self.cseq, true);
        }
        let kind = if body.starts_with("v=0") { "Content-Type: application/sdp\n" } else { "" };
        let text = self.text(method, self.cseq, self.cseq, true, &format!("{kind}{headers}"), body);
        self.send(&text, true)
    }

    /// The ACK of a 200.
    pub(crate) fn ack(self) -> Self {
        self.ack_with("")
    }

    /// With the answer to an offer that came in the 200.
    pub(crate) fn ack_with(self, body: &str) -> Self {
        let kind = if body.is_empty() { "" } else { "Content-Type: application/sdp\n" };
        let text = self.text("ACK", self.invite, self.invite + 500, true, kind, body);
        self.send(&text, false)
    }

    /// The ACK of any other final answer, which belongs to the INVITE's transaction.
    pub(crate) fn ack_refusal(self) -> Self {
        let text = self.text("ACK", self.invite, self.invite, true, "", "");
        self.send(&text, false)
    }

    pub(crate) fn cancel(self) -> Self {
        let text = self.text("CANCEL", self.invite, self.invite, false, "", "");
        self.send(&text, true)
    }

    /// The BYE and its answer, and all is over.
    pub(crate) fn bye(self) -> Self {
        self.within("BYE", "", "").expect(200).end()
    }

    /// Whatever these lines say; sipp's own words in brackets are known.
    pub(crate) fn raw(self, text: &str) -> Self {
        let text = format!("{}\n", text.lines().map(str::trim).collect::<Vec<_>>().join("\n"));
        self.send(&text, false)
    }

    /// The answer to the request that came last, as in `200 OK`.
    pub(crate) fn answer(self, status: &str, headers: &str, body: &str) -> Self {
        let mut text = format!("SIP/2.0 {status}\n[last_Via:]\n[last_From:]\n");
        text.push_str(if self.is_tagged { "[last_To:]\n" } else { "[last_To:];tag=[pid]u[call_number]\n" });
        text.push_str("[last_Call-ID:]\n[last_CSeq:]\n[last_Record-Route:]\n");
        text.push_str("Contact: <sip:sipp@[local_ip]:[local_port];transport=[transport]>\n");
        text.push_str(headers);
        if body.starts_with("v=0") {
            text.push_str("Content-Type: application/sdp\n");
        }
        write!(text, "Content-Length: [len]\n\n{body}").unwrap();
        // sipp repeats a 200 until its ACK comes when it is told to.
        self.send(&text, false)
    }

    /// What was waited for is a request that is answered later, by [`Self::answer_kept`].
    pub(crate) fn keep(self) -> Self {
        let this = self.take("via", "Via", "(.*)").take("from", "From", "(.*)").take("to", "To", "(.*)");
        this.take("cseq", "CSeq", "(.*)")
    }

    /// Answers what was kept.
    pub(crate) fn answer_kept(self, status: &str) -> Self {
        self.raw(&format!(
            "SIP/2.0 {status}\nVia: [$via]\nFrom: [$from]\nTo: [$to]\nCall-ID: [call_id]\nCSeq: [$cseq]\n\
             Content-Length: 0\n\n"
        ))
    }

    /// Answers the INVITE that has made the call, though other requests came since.
    pub(crate) fn answer_invite(self, status: &str, body: &str) -> Self {
        let kind = if body.is_empty() { "" } else { "Content-Type: application/sdp\n" };
        self.raw(&format!(
            "SIP/2.0 {status}\nVia: [$via]\nFrom: [$calling]\nTo: [$called];tag=[pid]u[call_number]\n\
             Call-ID: [call_id]\nCSeq: [$cseq]\nContact: <sip:sipp@[local_ip]:[local_port]>\n{kind}\
             Content-Length: [len]\n\n{body}"
        ))
    }

    /// What was sent has made a dialog: from here on requests come in it.
    pub(crate) fn in_dialog(mut self) -> Self {
        self.is_tagged = true;
        self
    }

    fn send(mut self, text: &str, repeats: bool) -> Self {
        self.flush();
        let repeats = if repeats { " retrans=\"500\"" } else { "" };
        write!(self.steps, "  <send{repeats}><![CDATA[\n{text}]]></send>\n").unwrap();
        self
    }

    fn text(&self, method: &str, cseq: u32, branch: u32, in_dialog: bool, headers: &str, body: &str) -> String {
        let [via, from, to, call_id, contact, length] = if self.compact {
            ["v", "f", "t", "i", "m", "l"]
        } else {
            ["Via", "From", "To", "Call-ID", "Contact", "Content-Length"]
        };
        let headers = if self.compact { headers.replace("Content-Type:", "c:") } else { headers.to_owned() };
        // The ACK of a refusal and a CANCEL go where their INVITE went.
        let goes_along = matches!(method, "ACK" | "CANCEL") && branch == self.invite;
        let target = if if goes_along { self.is_again } else { in_dialog } { "[next_url]" } else { TARGET };
        let (local, remote) = match self.role {
            Role::Caller => {
                let tag = if in_dialog { "[peer_tag_param]" } else { "" };
                (format!("<{LOCAL}>;tag=[pid]c[call_number]"), format!("<{TARGET}>{tag}"))
            }
            Role::Callee => ("[$called];tag=[pid]u[call_number]".to_owned(), "[$calling]".to_owned()),
        };
        let mut text = format!(
            "{method} {target} SIP/2.0\n\
             {via}: SIP/2.0/[transport] [local_ip]:[local_port];rport;branch=z9hG4bK-[pid]-[call_number]-{branch}\n\
             {from}: {local}\n{to}: {remote}\n{call_id}: [call_id]\nCSeq: {cseq} {method}\n"
        );
        if !matches!(method, "ACK" | "BYE" | "CANCEL") {
            writeln!(text, "{contact}: <sip:sipp@[local_ip]:[local_port];transport=[transport]>").unwrap();
        }
        if !headers.contains("Max-Forwards") {
            text.push_str("Max-Forwards: 70\n");
        }
        for line in headers.lines() {
            writeln!(text, "{}", line.trim()).unwrap();
        }
        write!(text, "{length}: [len]\n\n{body}").unwrap();
        text
    }

    // What sipp waits for

    /// An answer that has to be the next one.
    pub(crate) fn expect(self, status: u16) -> Self {
        // The dialog's target and route are in it.
        let route = if status == 100 { "" } else { " rrs=\"true\"" };
        self.wait(format!("response=\"{status}\"{route}"))
    }

    /// An answer that may come first.
    pub(crate) fn may(self, status: u16) -> Self {
        self.wait(format!("response=\"{status}\" optional=\"true\""))
    }

    /// A request of the other side.
    pub(crate) fn awaits(self, method: &str) -> Self {
        if self.role == Role::Callee && method == "INVITE" && !self.is_tagged {
            // Requests of sipp's own in the dialog need them.
            let this = self.wait(format!("request=\"{method}\" rrs=\"true\""));
            let this = this.take("calling", "From", "(.*)").take("called", "To", "(.*)");
            return this.take("via", "Via", "(.*)").take("cseq", "CSeq", "(.*)");
        }
        self.wait(format!("request=\"{method}\""))
    }

    /// No longer than this (ms): sipp fails the call then.
    pub(crate) fn within_ms(mut self, ms: u32) -> Self {
        self.waiting().attributes.push_str(&format!(" timeout=\"{ms}\""));
        self
    }

    /// What was waited for has this header, and this in it (a POSIX expression).
    pub(crate) fn header(self, name: &str, has: &str) -> Self {
        let variable = format!("x{}", self.taken.len());
        self.look(&format!("search_in=\"hdr\" header=\"{name}:\""), has, "check_it=\"true\"", &variable)
    }

    /// What was waited for has this in its body.
    pub(crate) fn body(self, has: &str) -> Self {
        let variable = format!("x{}", self.taken.len());
        self.look("search_in=\"body\"", has, "check_it=\"true\"", &variable)
    }

    /// What was waited for has this nowhere.
    pub(crate) fn lacks(self, what: &str) -> Self {
        let variable = format!("x{}", self.taken.len());
        self.look("search_in=\"msg\"", what, "check_it_inverse=\"true\"", &variable)
    }

    /// What the expression's first group has matched in this header is told as `name=...`, and is `[$name]` from here on.
    pub(crate) fn take(self, name: &str, header: &str, has: &str) -> Self {
        self.take_from(name, &format!("search_in=\"hdr\" header=\"{header}:\""), has)
    }

    /// The same in the body.
    pub(crate) fn take_body(self, name: &str, has: &str) -> Self {
        self.take_from(name, "search_in=\"body\"", has)
    }

    fn take_from(self, name: &str, place: &str, has: &str) -> Self {
        let mut this = self.look(place, has, "check_it=\"true\"", &format!("all{name},{name}"));
        let told = format!("      <log message=\"{name}=[${name}]\"/>\n");
        this.waiting().actions.push_str(&told);
        this
    }

    fn look(mut self, place: &str, has: &str, check: &str, variables: &str) -> Self {
        let has = has.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;");
        let look = format!("      <ereg regexp=\"{has}\" {place} {check} assign_to=\"{variables}\"/>\n");
        self.waiting().actions.push_str(&look);
        for variable in variables.split(',') {
            if !self.taken.iter().any(|taken| taken == variable) {
                self.taken.push(variable.to_owned());
            }
        }
        self
    }

    /// Waits so long (ms).
    pub(crate) fn pause(mut self, ms: u32) -> Self {
        self.flush();
        writeln!(self.steps, "  <pause milliseconds=\"{ms}\"/>").unwrap();
        self
    }

    /// From here on the stream is this raw PCMU, again and again.
    pub(crate) fn play(mut self, file: &str) -> Self {
        self.flush();
        writeln!(self.steps, "  <nop><action><exec rtp_stream=\"{file},-1,0,PCMU/8000\"/></action></nop>").unwrap();
        self
    }

    fn wait(mut self, attributes: String) -> Self {
        self.flush();
        self.waiting = Some(Waiting { attributes, actions: String::new() });
        self
    }

    #[track_caller]
    fn waiting(&mut self) -> &mut Waiting {
        self.waiting.as_mut().expect("something is waited for")
    }

    fn flush(&mut self) {
        if let Some(Waiting { attributes, actions }) = self.waiting.take() {
            if actions.is_empty() {
                writeln!(self.steps, "  <recv {attributes}/>").unwrap();
            } else {
                write!(self.steps, "  <recv {attributes}>\n    <action>\n{actions}    </action>\n  </recv>\n").unwrap();
            }
        }
    }
}

/// Whom sipp calls.
const TARGET: &str = "sip:[service]@[remote_ip]:[remote_port]";

/// Who sipp is.
const LOCAL: &str = "sip:sipp@[local_ip]:[local_port]";
