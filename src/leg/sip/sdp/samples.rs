//! Descriptions as peers send them, for tests. Lines end as they are written here; the wire's end in CR LF.

use std::fmt::Write as _;

/// Asterisk 20, chan_pjsip, `allow=!all,g722,alaw,ulaw`.
pub(super) const ASTERISK: &str = "\
v=0
o=- 1409723418 1409723418 IN IP4 192.168.1.20
s=Asterisk
c=IN IP4 192.168.1.20
t=0 0
m=audio 12084 RTP/AVP 9 8 0 101
a=rtpmap:9 G722/8000
a=rtpmap:8 PCMA/8000
a=rtpmap:0 PCMU/8000
a=rtpmap:101 telephone-event/8000
a=fmtp:101 0-16
a=ptime:20
a=maxptime:140
a=sendrecv
";

/// FreeSWITCH 1.10 with its long list: several clocks of digits, comfort noise.
pub(super) const FREESWITCH: &str = "\
v=0
o=FreeSWITCH 1709550211 1709550212 IN IP4 10.0.0.5
s=FreeSWITCH
c=IN IP4 10.0.0.5
t=0 0
m=audio 27444 RTP/AVP 102 103 9 0 8 104 105 3 18 96 97 98 99 106 101 13
a=rtpmap:102 opus/48000/2
a=fmtp:102 useinbandfec=1; maxaveragebitrate=30000; maxplaybackrate=48000; ptime=20; minptime=10; maxptime=40
a=rtpmap:103 telephone-event/48000
a=fmtp:103 0-16
a=rtpmap:9 G722/8000
a=rtpmap:0 PCMU/8000
a=rtpmap:8 PCMA/8000
a=rtpmap:104 L16/16000
a=rtpmap:105 speex/16000
a=rtpmap:3 GSM/8000
a=rtpmap:18 G729/8000
a=fmtp:18 annexb=no
a=rtpmap:96 G7221/32000
a=fmtp:96 bitrate=48000
a=rtpmap:97 G7221/16000
a=fmtp:97 bitrate=32000
a=rtpmap:98 iLBC/8000
a=fmtp:98 mode=20
a=rtpmap:99 AAL2-G726-32/8000
a=rtpmap:106 telephone-event/16000
a=fmtp:106 0-16
a=rtpmap:101 telephone-event/8000
a=fmtp:101 0-16
a=rtpmap:13 CN/8000
a=rtcp:27445 IN IP4 10.0.0.5
a=ptime:20
";

/// Cisco Unified CM: the bandwidth lines of a phone, the address of the medium only, digits under 101.
pub(super) const CISCO: &str = "\
v=0
o=CiscoSystemsCCM-SIP 2087453 1 IN IP4 172.18.199.61
s=SIP Call
c=IN IP4 172.18.199.70
b=AS:64
t=0 0
m=audio 18912 RTP/AVP 0 8 18 101
c=IN IP4 172.18.199.71
b=TIAS:64000
a=rtpmap:0 PCMU/8000
a=ptime:20
a=rtpmap:8 PCMA/8000
a=ptime:20
a=rtpmap:18 G729/8000
a=ptime:20
a=fmtp:18 annexb=no
a=rtpmap:101 telephone-event/8000
a=fmtp:101 0-15
";

/// 3CX, whose name for the session has blanks.
pub(super) const THREE_CX: &str = "\
v=0
o=3cxPS 366870528000 167637942273 IN IP4 192.168.3.10
s=3cxPS Audio call
c=IN IP4 192.168.3.10
t=0 0
m=audio 7042 RTP/AVP 8 0 3 101
a=rtpmap:8 PCMA/8000
a=rtpmap:0 PCMU/8000
a=rtpmap:3 GSM/8000
a=rtpmap:101 telephone-event/8000
a=fmtp:101 0-15
a=silenceSupp:off - - - -
a=sendrecv
";

/// baresip on Android (its issue 3258): digits under a number that belongs to stereo.
pub(super) const BARESIP: &str = "\
v=0
o=- 2237437666 647389653 IN IP4 192.168.168.187
s=-
c=IN IP4 192.168.168.187
t=0 0
m=audio 8570 RTP/AVP 96 97 98 9 99 100 101 102 103 18 104 8 0 10
a=rtpmap:96 AMR-WB/16000
a=rtpmap:97 AMR/8000
a=rtpmap:98 opus/48000/2
a=fmtp:98 stereo=0;sprop-stereo=0;maxaveragebitrate=28000;cbr=0;useinbandfec=1
a=rtpmap:9 G722/8000
a=rtpmap:99 G7221/16000
a=fmtp:99 bitrate=32000
a=rtpmap:100 G726-40/8000
a=rtpmap:101 G726-32/8000
a=rtpmap:102 G726-24/8000
a=rtpmap:103 G726-16/8000
a=rtpmap:18 G729/8000
a=rtpmap:104 CODEC2/8000
a=rtpmap:8 PCMA/8000
a=rtpmap:0 PCMU/8000
a=rtpmap:10 telephone-event/8000
a=fmtp:10 0-15
a=sendrecv
a=rtcp-rsize
a=ssrc:3299428848 cname:sip:bar@test.tutpro.com
a=mid:0
a=minptime:20
a=ptime:20
a=label:1
";

/// sipp's own `uac` scenario.
pub(super) const SIPP: &str = "\
v=0
o=user1 53655765 2353687637 IN IP4 127.0.0.1
s=-
c=IN IP4 127.0.0.1
t=0 0
m=audio 6000 RTP/AVP 0
a=rtpmap:0 PCMU/8000
";

/// AudioCodes MP-118: names in small letters, no digits that it could mean but 96.
pub(super) const AUDIOCODES: &str = "\
v=0
o=AudiocodesGW 30221 87035 IN IP4 10.8.201.10
s=Phone-Call
c=IN IP4 10.8.201.10
t=0 0
m=audio 7210 RTP/AVP 8 96
a=rtpmap:8 pcma/8000
a=ptime:20
a=rtpmap:96 telephone-event/8000
a=fmtp:96 0-15
";

/// Chrome: encrypted audio, bundled.
pub(super) const BROWSER: &str = "\
v=0
o=- 4611731400430051336 2 IN IP4 127.0.0.1
s=-
t=0 0
a=group:BUNDLE 0
a=extmap-allow-mixed
a=msid-semantic: WMS stream
m=audio 9 UDP/TLS/RTP/SAVPF 111 63 9 0 8 13 110 126
c=IN IP4 0.0.0.0
a=rtcp:9 IN IP4 0.0.0.0
a=ice-ufrag:Oyef
a=ice-pwd:7uh+6zZ1bGcyMCVuIGFwcGxl
a=ice-options:trickle
a=fingerprint:sha-256 7B:8B:F0:65:5F:78:E2:51:3B:AC:6F:F3:3F:46:1B:35:DC:B8:5F:64:1A:24:C2:43:F0:A1:58:D0:A1:2C:19:08
a=setup:actpass
a=mid:0
a=extmap:1 urn:ietf:params:rtp-hdrext:ssrc-audio-level
a=sendrecv
a=msid:stream track
a=rtcp-mux
a=rtcp-rsize
a=rtpmap:111 opus/48000/2
a=rtcp-fb:111 transport-cc
a=fmtp:111 minptime=10;useinbandfec=1
a=rtpmap:63 red/48000/2
a=fmtp:63 111/111
a=rtpmap:9 G722/8000
a=rtpmap:0 PCMU/8000
a=rtpmap:8 PCMA/8000
a=rtpmap:13 CN/8000
a=rtpmap:110 telephone-event/48000
a=rtpmap:126 telephone-event/8000
a=ssrc:3735928559 cname:hGmy7dNqYDuNRtQw
";

/// A phone with a screen and a fax behind it: video, encrypted audio, audio, T.38.
pub(super) const EVERYTHING: &str = "\
v=0
o=phone 8000 8001 IN IP6 2001:db8::7
s=Talk
c=IN IP6 2001:db8::7
b=AS:512
t=0 0
a=sendonly
m=video 40020 RTP/AVP 99 34
a=rtpmap:99 H264/90000
a=fmtp:99 profile-level-id=42801E;packetization-mode=1
m=audio 40002 RTP/SAVP 0 101
a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:d0RmdmcmVCspeEc3QGZiNWpVLFJhQX1cfHAwJSoj
m=audio 40004/2 RTP/AVPF 97 8 101
a=rtpmap:97 L16/16000/1
a=rtpmap:8 PCMA/8000/1
a=rtpmap:101 telephone-event/8000/1
a=ptime:30
a=rtcp-mux
m=image 40010 udptl t38
a=T38FaxVersion:0
a=T38FaxRateManagement:transferredTCF
";

/// Those that a call can be made of.
pub(super) const GOOD: [&str; 8] = [ASTERISK, FREESWITCH, CISCO, THREE_CX, BARESIP, SIPP, AUDIOCODES, EVERYTHING];

/// As it is on the wire.
pub(super) fn wire(text: &str) -> Vec<u8> {
    text.replace('\n', "\r\n").into_bytes()
}

/// The same with lines put in place of others, each `(from, to)`.
pub(super) fn changed(text: &str, changes: &[(&str, &str)]) -> Vec<u8> {
    let mut text = text.to_owned();
    for (from, to) in changes {
        assert!(text.contains(from), "{from}");
        text = text.replacen(from, to, 1);
    }
    wire(&text)
}

/// Media lines `m` times, of type `media`.
pub(super) fn many(media: &str, m: usize) -> Vec<u8> {
    let mut text = SIPP.to_owned();
    for _ in 0..m {
        let _ = writeln!(text, "m={media} 0 RTP/AVP 31");
    }
    wire(&text)
}
