"""A SIP registrar that is not ours: RFC 3261 10.3 with the digest of RFC 8760, from the standard library.

    registrar.py [--algorithms SHA-256,MD5] [--qop auth,auth-int] [--stale] [--min-expires N] [--grants N]
                 [--refuse STATUS] [--silent] [--calls] [--address HOST] [--tls DIR]

It speaks UDP, or with --tls a connection with the certificate that is in this folder.

It has the user 201 with the password "line of sight". A line is printed for each request that comes: its number, what it
says and how it was answered. With --calls it calls whoever has registered, over the way that the REGISTER came, and
prints how that went.
"""

import argparse
import hashlib
import re
import secrets
import socket
import ssl
import time

USER, PASSWORD, REALM = "201", "line of sight", "registrar.test"
HASHES = {"MD5": hashlib.md5, "SHA-256": hashlib.sha256, "SHA-512-256": lambda data: hashlib.new("sha512_256", data)}


class Message:
    def __init__(self, data):
        head, _, self.body = data.decode("latin-1").partition("\r\n\r\n")
        self.start, *lines = head.split("\r\n")
        self.headers = [tuple(part.strip() for part in line.split(":", 1)) for line in lines]

    def get(self, name, default=""):
        return next((value for key, value in self.headers if key.lower() == name.lower()), default)

    @property
    def method(self):
        return self.start.split(" ")[0]

    def answer(self, status, tag, more=()):
        to = self.get("To")
        if ";tag=" not in to:
            to += f";tag={tag}"
        lines = [f"SIP/2.0 {status}"]
        lines += [f"Via: {value}" for key, value in self.headers if key.lower() == "via"]
        lines += [f"From: {self.get('From')}", f"To: {to}", f"Call-ID: {self.get('Call-ID')}", f"CSeq: {self.get('CSeq')}"]
        lines += [*more, "Content-Length: 0", "", ""]
        return "\r\n".join(lines).encode()


class Connections:
    """Messages of one connection after the other, as if they were datagrams."""

    def __init__(self, listener, folder):
        self.listener, self.connection, self.data = listener, None, b""
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(f"{folder}/server.pem", f"{folder}/server-key.pem")

    def recvfrom(self, _):
        if not self.connection:
            accepted, self.peer = self.listener.accept()
            try:
                self.connection, self.data = self.context.wrap_socket(accepted, server_side=True), b""
            except OSError as error:
                print(f"handshake={str(error).replace(' ', '_')}", flush=True)
                raise TimeoutError from error
            self.connection.settimeout(0.2)
        while True:
            self.data = self.data.lstrip(b"\r\n")
            head, end, rest = self.data.partition(b"\r\n\r\n")
            length = int(re.search(rb"(?im)^(?:content-length|l)\s*:\s*(\d+)", head).group(1)) if end else 0
            if end and len(rest) >= length:
                self.data = rest[length:]
                return head + end + rest[:length], self.peer
            more = self.connection.recv(65536)
            if not more:
                self.connection = None
                raise TimeoutError
            self.data += more

    def sendto(self, data, _):
        self.connection.sendall(data)


def parameters(header):
    """Of `Digest a="b", c=d`."""
    return {key.lower(): quoted or plain for key, quoted, plain in re.findall(r'(\w[\w-]*)=(?:"([^"]*)"|([^\s,]+))', header)}


def verdict(message, nonces, args):
    """Whether the Authorization holds: ok, or what is wrong with it."""
    header = message.get("Authorization")
    if not header:
        return "none"
    got = parameters(header)
    algorithm = got.get("algorithm", "MD5")
    if algorithm not in args.algorithms:
        return "algorithm"
    h = lambda text: HASHES[algorithm](text.encode()).hexdigest()
    uri = message.start.split(" ")[1]
    if got.get("uri") != uri:
        return "uri"
    if got.get("realm") != REALM or got.get("opaque") != "opaque-" + algorithm:
        return "echo"
    ha1, ha2 = h(f"{got.get('username')}:{REALM}:{PASSWORD}"), f"{message.method}:{uri}"
    if args.qop:
        if got.get("qop") not in args.qop:
            return "qop"
        if got["qop"] == "auth-int":
            ha2 += ":" + h(message.body)
        nc = got.get("nc", "")
        if not re.fullmatch("[0-9a-f]{8}", nc):
            return "nc"
        expected = h(f"{ha1}:{got['nonce']}:{nc}:{got.get('cnonce')}:{got['qop']}:{h(ha2)}")
    else:
        nc, expected = "", h(f"{ha1}:{got.get('nonce')}:{h(ha2)}")
    if got.get("response") != expected or got.get("username") != USER:
        return "response"
    nonce = got["nonce"]
    if nonce not in nonces:
        return "stale"
    if nc and int(nc, 16) <= nonces[nonce]:
        return "replay"
    nonces[nonce] = int(nc, 16) if nc else 0
    return "ok"


def challenges(nonces, args, stale):
    more = []
    for algorithm in args.algorithms:
        nonce = secrets.token_hex(16)
        # One that is stale at once is never known.
        if not args.stale:
            nonces[nonce] = 0
        parts = [f'realm="{REALM}"', f'nonce="{nonce}"', f'opaque="opaque-{algorithm}"', f"algorithm={algorithm}"]
        parts += [f'qop="{",".join(args.qop)}"'] if args.qop else []
        parts += ["stale=true"] if stale else []
        more.append("WWW-Authenticate: Digest " + ", ".join(parts))
    return more


def call(sock, peer, contact, here):
    """INVITE, ACK, BYE to a contact, over the way that its REGISTER came."""
    uri = re.search("<([^>]*)>", contact).group(1)
    identity, tag = secrets.token_hex(8), secrets.token_hex(4)
    sdp = (
        "v=0\r\no=pbx 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\n"
        "m=audio 40000 RTP/AVP 0\r\na=rtpmap:0 PCMU/8000\r\n"
    )

    def request(method, cseq, to, body=""):
        lines = [
            f"{method} {uri} SIP/2.0",
            f"Via: SIP/2.0/UDP {here};rport;branch=z9hG4bK{identity}{method}",
            f'From: "PBX" <sip:100@{here}>;tag={tag}',
            f"To: {to}",
            f"Call-ID: {identity}",
            f"CSeq: {cseq} {method}",
            "Max-Forwards: 70",
            f"Contact: <sip:100@{here}>",
        ]
        lines += ["Content-Type: application/sdp"] if body else []
        lines += [f"Content-Length: {len(body)}", "", body]
        sock.sendto("\r\n".join(lines).encode(), peer)

    to, seen, until = f"<sip:{USER}@{here}>", [], time.monotonic() + 10
    request("INVITE", 1, to, sdp)
    while time.monotonic() < until:
        try:
            data, _ = sock.recvfrom(65536)
        except TimeoutError:
            continue
        message = Message(data)
        if message.get("Call-ID") != identity:
            continue
        status = message.start.split(" ")[1]
        seen.append(status)
        if message.get("CSeq") == "2 BYE":
            break
        if status == "200":
            to = message.get("To")
            request("ACK", 1, to)
            time.sleep(0.3)
            request("BYE", 2, to)
        elif status >= "300":
            break
    print(f"called={','.join(seen)}", flush=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--algorithms", default="SHA-256,MD5")
    parser.add_argument("--qop", default="auth")
    parser.add_argument("--stale", action="store_true")
    parser.add_argument("--min-expires", type=int, default=0)
    parser.add_argument("--grants", type=int, default=0)
    parser.add_argument("--refuse")
    parser.add_argument("--silent", action="store_true")
    parser.add_argument("--calls", action="store_true")
    parser.add_argument("--address", default="127.0.0.1")
    parser.add_argument("--tls")
    args = parser.parse_args()
    args.algorithms = [name for name in args.algorithms.split(",") if name]
    args.qop = [name for name in args.qop.split(",") if name]

    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM if args.tls else socket.SOCK_DGRAM)
    sock.bind((args.address, 0))
    sock.settimeout(0.2)
    port = sock.getsockname()[1]
    if args.tls:
        sock.listen()
        sock = Connections(sock, args.tls)
    here = f"{args.address}:{port}"
    print(f"listening={port}", flush=True)
    nonces, answered = {}, {}
    number = 0
    while True:
        try:
            data, peer = sock.recvfrom(65536)
        except TimeoutError:
            continue
        at = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
        if not data.strip():
            continue
        message = Message(data)
        if message.start.startswith("SIP/2.0"):
            continue
        branch = message.get("Via")
        if branch in answered:
            # A repeat: the same answer.
            sock.sendto(answered[branch], peer)
            continue
        tag, more, status, auth = secrets.token_hex(4), [], "200 OK", "-"
        contact, expires = message.get("Contact"), message.get("Expires", "-")
        asked = re.search(r";expires=(\d+)", contact)
        asked = int(asked.group(1)) if asked else int(expires) if expires.isdigit() else 3600
        if args.silent:
            status = "-"
        elif message.method != "REGISTER":
            status = "200 OK"
        elif args.refuse:
            status = f"{args.refuse} Refused"
        else:
            auth = verdict(message, nonces, args)
            if auth in ("none", "stale", "replay"):
                status, more = "401 Unauthorized", challenges(nonces, args, auth != "none")
                # The next nonce holds.
                if auth == "none" and args.stale:
                    args.stale = False
            elif auth != "ok":
                status = "403 Forbidden"
            elif 0 < asked < args.min_expires:
                status, more = "423 Interval Too Brief", [f"Min-Expires: {args.min_expires}"]
            else:
                granted = min(asked, args.grants) if args.grants else asked
                bare = re.sub(r";expires=\d+", "", contact)
                more = [f"Contact: {bare};expires={granted}"] if granted else []
        used = parameters(message.get("Authorization"))
        number += 1
        print(
            f"request={number} method={message.method} status={status.split(' ')[0]} auth={auth} at={at} "
            f"uri={message.start.split(' ')[1]} call_id={message.get('Call-ID')} cseq={message.get('CSeq').split(' ')[0]} "
            f"from_tag={message.get('From').partition(';tag=')[2]} to={message.get('To').replace(' ', '')} "
            f"expires={asked} contact={contact.replace(' ', '')} algorithm={used.get('algorithm', '-')} "
            f"qop={used.get('qop', '-')} nc={used.get('nc', '-')} cnonce={used.get('cnonce', '-')}",
            flush=True,
        )
        if status == "-":
            continue
        answered[branch] = message.answer(status, tag, more)
        sock.sendto(answered[branch], peer)
        if args.calls and auth == "ok" and asked and status.startswith("200"):
            args.calls = False
            call(sock, peer, contact, here)


main()
