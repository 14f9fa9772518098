"""A second implementation of docs/spec/envelope.md, to check the first one against.

It is written from the document, not from the Go code: CBOR by cbor2, primitives by
python3-cryptography. It strives for plainness, not speed, and is no library. Strictness comes
from one rule: what was decoded must encode to the same bytes again.
"""

import base64
import datetime
import hashlib
import hmac
import re

import cbor2
from cryptography import x509
from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, utils
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

MAX_SEQ = 2**40 - 1
MAX_INNER = 2**28 - 1
WINDOW = 1984


class Refused(Exception):
    """A message that must not be accepted; kind is the class that the vectors name."""

    def __init__(self, kind, why):
        super().__init__(f"{kind}: {why}")
        self.kind = kind


def encode(item):
    return cbor2.dumps(item, canonical=True)


def decode(data, kind):
    """Decodes one item that is deterministically encoded and fills data."""
    try:
        item = cbor2.loads(data)
        again = encode(item)
    except Exception as e:  # cbor2 raises many kinds on garbage
        raise Refused(kind, f"not CBOR: {e}") from None
    if again != data:
        raise Refused(kind, "not deterministic, or bytes follow")
    return item


def hkdf(secret, salt, info, length):
    return HKDF(hashes.SHA256(), length, salt, encode(info)).derive(secret)


# Section 5: key schedule


def commitment(secret, group):
    return hkdf(secret, b"", ["sealgate v1 commitment", group], 32)


def stream_id(gateway, boot, random, will):
    h = bytearray(hashlib.sha256(encode(["sealgate v1 stream id", gateway, boot, random])).digest()[:8])
    h[0] = h[0] & 0x7F | (0x80 if will else 0)
    return bytes(h)


def stream_keys(secret, group, topic, stream):
    okm = hkdf(secret, b"", ["sealgate v1 stream", group, topic, stream], 44)
    return okm[:32], okm[32:]


# Section 17: hidden topics


def topic_key(secret, fleet, number):
    return hkdf(secret, b"", ["sealgate v1 topic key", fleet, number], 32)


def token(key, level):
    if level in ("+", "#"):
        return level
    return "~" + base64.urlsafe_b64encode(hmac.digest(key, level.encode(), "sha256")[:12]).decode()


def hide(key, topic):
    if topic.startswith("$"):
        return topic
    return "/".join(token(key, level) for level in topic.split("/"))


def split_name(data, key, topic):
    """The rest of inner behind the topic name, which has to be what the hidden topic stands for."""
    size = int.from_bytes(data[:2], "big")
    name = data[2 : 2 + size].decode("utf-8", "replace")
    if len(data) < 2 + size or not size or set(name) & set("+#\0") or hide(key, name) != topic:
        raise Refused("inner", "another topic name than the hidden one")
    return name, data[2 + size :]


# Sections 3 and 4: inner plaintext and envelope


def varint(n):
    out = bytearray()
    while True:
        n, low = n >> 7, n & 0x7F
        out.append(low | (0x80 if n else 0))
        if not n:
            return bytes(out)


def inner(props, payload, pad=0, name=""):
    head = len(name.encode()).to_bytes(2, "big") + name.encode() if name else b""
    plain = varint(len(props)) + props + payload
    if not pad:
        return head + plain
    padding = 2 + -(len(head) + len(plain) + 2) % pad
    return head + b"\x80" * (padding - 1) + b"\0" + plain


def split_inner(data):
    rest = data.lstrip(b"\x80")
    if len(rest) < len(data) and rest[:1] == b"\0":
        data = rest[1:]
    n = shift = used = 0
    while True:
        if used == len(data) or used == 4:
            raise Refused("inner", "the length of the properties does not end")
        c = data[used]
        n, shift, used = n | (c & 0x7F) << shift, shift + 7, used + 1
        if not c & 0x80:
            break
    if varint(n) != data[:used] or used + n > len(data):
        raise Refused("inner", "a longer form than needed, or properties that overrun")
    return data[used : used + n], data[used + n :]


PROTECTED = encode({1: 24})


def additional_data(group, topic, kid):
    return encode(["Encrypt0", PROTECTED, encode([1, group, topic, kid])])


def partial_iv(seq):
    return seq.to_bytes(max(1, (seq.bit_length() + 7) // 8), "big")


def nonce(base_iv, piv):
    return bytes(a ^ b for a, b in zip(base_iv, piv.rjust(12, b"\0")))


def seal(secret, group, topic, stream, seq, props, payload, pad=0, name=""):
    if seq > MAX_SEQ:
        raise Refused("exhausted", "start a new stream")
    kid = commitment(secret, group)[:4] + stream
    key, base_iv = stream_keys(secret, group, topic, stream)
    piv = partial_iv(seq)
    ct = ChaCha20Poly1305(key).encrypt(nonce(base_iv, piv), inner(props, payload, pad, name), additional_data(group, topic, kid))
    return encode(cbor2.CBORTag(16, [PROTECTED, {4: kid, 6: piv}, ct]))


def parse(data):
    e = decode(data, "parse")
    if not isinstance(e, cbor2.CBORTag) or e.tag != 16 or not isinstance(e.value, list) or len(e.value) != 3:
        raise Refused("parse", "not COSE_Encrypt0")
    protected, unprotected, ct = e.value
    if protected != PROTECTED or not isinstance(unprotected, dict) or list(unprotected) != [4, 6]:
        raise Refused("parse", "headers")
    kid, piv = unprotected[4], unprotected[6]
    if not all(isinstance(x, bytes) for x in (kid, piv, ct)) or len(kid) != 12 or not 1 <= len(piv) <= 5:
        raise Refused("parse", "header values")
    seq = int.from_bytes(piv, "big")
    if partial_iv(seq) != piv:
        raise Refused("parse", "Partial IV not in its shortest form")
    if not 17 <= len(ct) <= MAX_INNER + 16:
        raise Refused("parse", "length of the ciphertext")
    return kid, seq, ct


def open_envelope(secret, group, topic, data, key_of_topics=None):
    """Section 7, for a receiver that holds one payload secret of the topic's group; with a topic key, on a hidden topic."""
    kid, seq, ct = parse(data)
    if kid[:4] != commitment(secret, group)[:4]:
        raise Refused("kid", "unknown key id")
    key, base_iv = stream_keys(secret, group, topic, kid[4:])
    try:
        plain = ChaCha20Poly1305(key).decrypt(nonce(base_iv, partial_iv(seq)), ct, additional_data(group, topic, kid))
    except InvalidTag:
        raise Refused("auth", "does not authenticate") from None
    if key_of_topics:
        _, plain = split_name(plain, key_of_topics, topic)
    props, payload = split_inner(plain)
    return kid, seq, props, payload


class Window:
    """Section 7.4, as sets instead of bits."""

    def __init__(self, resume=None):
        self.seen, self.top, self.first, self.floor = set(), None, None, 0
        if resume is not None:
            self.seen, self.top, self.first, self.floor = {resume}, resume, resume, resume + 1

    def check(self, seq):
        if self.top is None:
            return "start"
        if seq > self.top:
            return "fresh"
        if seq < self.floor or self.top - seq >= WINDOW:
            return "too-old"
        return "duplicate" if seq in self.seen else "fresh"

    def commit(self, seq):
        gap = seq - self.top - 1 if self.top is not None and seq > self.top else 0
        if self.check(seq) in ("start", "fresh"):
            self.first = seq if self.first is None else self.first
            self.top = seq if self.top is None else max(self.top, seq)
            self.seen.add(seq)
        return gap

    def missing(self):
        return self.top - self.first + 1 - sum(1 for s in self.seen if s >= self.first)


# Section 10: KEK and wraps


def ratchet(kek, group):
    return hkdf(kek, b"", ["sealgate v1 ratchet", group], 32)


def wrap_key(kek, salt, fleet, group, generation, number, keeper):
    return hkdf(kek, salt, ["sealgate v1 wrap", fleet, group, generation, number, keeper], 32)


def wrap(kek, salt, secret, *context):
    return ChaCha20Poly1305(wrap_key(kek, salt, *context)).encrypt(bytes(12), secret, b"")


def unwrap(kek, salt, committed, ciphertext, *context):
    try:
        secret = ChaCha20Poly1305(wrap_key(kek, salt, *context)).decrypt(bytes(12), ciphertext, b"")
    except InvalidTag:
        raise Refused("unwrap", "does not authenticate") from None
    if commitment(secret, context[1]) != committed:
        raise Refused("unwrap", "opens to another secret than it commits to")
    return secret


# Section 12: signed messages

P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
NAME = r"[a-z0-9][a-z0-9._-]{0,62}"
MEMBER = re.compile(rf"sealgate:({NAME})/(gateway|subscriber|keeper|operator)/({NAME})")


def parse_sign1(msg):
    m = decode(msg, "parse")
    if not isinstance(m, cbor2.CBORTag) or m.tag != 18 or not isinstance(m.value, list) or len(m.value) != 4:
        raise Refused("parse", "not COSE_Sign1")
    protected, unprotected, payload, signature = m.value
    if not all(isinstance(x, bytes) for x in (protected, payload, signature)) or len(signature) != 64:
        raise Refused("parse", "protected header, payload or signature")
    p = decode(protected, "parse")
    if not isinstance(p, dict) or list(p) != [1, 34] or p[1] not in (-7, -8):
        raise Refused("parse", "protected header")
    x5t = p[34]
    if not isinstance(x5t, list) or len(x5t) != 2 or x5t[0] != -16 or not isinstance(x5t[1], bytes) or len(x5t[1]) != 32:
        raise Refused("parse", "x5t")
    if not isinstance(unprotected, dict) or list(unprotected) != [33]:
        raise Refused("parse", "unprotected header")
    chain = unprotected[33]
    if isinstance(chain, list):
        if not 2 <= len(chain) <= 4:
            raise Refused("parse", "length of the chain")
    else:
        chain = [chain]
    if not all(isinstance(c, bytes) and len(c) <= 8192 for c in chain):
        raise Refused("parse", "chain")
    return protected, p[1], x5t[1], chain, payload, signature


def valid_at(cert, now):
    return cert.not_valid_before <= now <= cert.not_valid_after


def signed_by(cert, issuer):
    """Whether issuer, a CA, signed cert."""
    try:
        if cert.issuer != issuer.subject or not issuer.extensions.get_extension_for_class(x509.BasicConstraints).value.ca:
            return False
        if not issuer.extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign:
            return False
        pub = issuer.public_key()
        if isinstance(pub, ed25519.Ed25519PublicKey):
            pub.verify(cert.signature, cert.tbs_certificate_bytes)
        else:
            pub.verify(cert.signature, cert.tbs_certificate_bytes, ec.ECDSA(cert.signature_hash_algorithm))
        return True
    except (InvalidSignature, x509.ExtensionNotFound):
        return False


def member_of(cert):
    try:
        uris = cert.extensions.get_extension_for_class(x509.SubjectAlternativeName).value.get_values_for_type(
            x509.UniformResourceIdentifier
        )
    except x509.ExtensionNotFound:
        uris = []
    match = MEMBER.fullmatch(uris[0]) if len(uris) == 1 else None
    if not match:
        raise Refused("chain", f"URIs {uris}")
    try:
        if cert.extensions.get_extension_for_class(x509.BasicConstraints).value.ca:
            raise Refused("chain", "a CA as member")
    except x509.ExtensionNotFound:
        pass
    if not cert.extensions.get_extension_for_class(x509.KeyUsage).value.digital_signature:
        raise Refused("chain", "key usage")
    return match.groups()


def check_chain(ders, x5t, fleet, ca, now):
    if hashlib.sha256(ders[0]).digest() != x5t:
        raise Refused("chain", "x5t")
    try:
        certs = [x509.load_der_x509_certificate(der) for der in ders]
    except ValueError as e:
        raise Refused("chain", str(e)) from None
    its_fleet, role, name = member_of(certs[0])
    if its_fleet != fleet:
        raise Refused("chain", "another fleet")
    if certs[-1] == ca:
        raise Refused("chain", "the CA is superfluous")
    for cert, issuer in zip(certs, certs[1:] + [ca]):
        if not signed_by(cert, issuer):
            raise Refused("chain", "a link does not hold")
    if not all(valid_at(c, now) for c in certs + [ca]):
        raise Refused("chain", "not valid now")
    return certs[0], role, name


def check_signature(pub, alg, signature, tbs):
    try:
        if isinstance(pub, ed25519.Ed25519PublicKey):
            if alg != -8:
                raise Refused("signature", "algorithm")
            pub.verify(signature, tbs)
        elif isinstance(pub, ec.EllipticCurvePublicKey) and isinstance(pub.curve, ec.SECP256R1):
            r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
            if alg != -7 or s > P256_ORDER // 2:
                raise Refused("signature", "algorithm, or s in the upper half")
            pub.verify(utils.encode_dss_signature(r, s), tbs, ec.ECDSA(hashes.SHA256()))
        else:
            raise Refused("chain", "kind of key")
    except InvalidSignature:
        raise Refused("signature", "does not verify") from None


def verify_sign1(msg, typ, fleet, ca_der, now, policy=False):
    """Returns payload, role, name, hash of the certificate."""
    protected, alg, x5t, chain, payload, signature = parse_sign1(msg)
    ca = x509.load_der_x509_certificate(ca_der)
    if policy and chain == [ca_der]:
        leaf, role, name = ca, "authority", "ca"
        if hashlib.sha256(ca_der).digest() != x5t or not valid_at(ca, now):
            raise Refused("chain", "x5t or time of the CA")
    else:
        leaf, role, name = check_chain(chain, x5t, fleet, ca, now)
    tbs = encode(["Signature1", protected, encode([1, fleet, typ]), payload])
    check_signature(leaf.public_key(), alg, signature, tbs)
    if policy and role not in ("authority", "operator"):
        raise Refused("chain", "may not sign a policy")
    return payload, role, name, x5t


def timestamp(text):
    """A time as the certificates of cryptography 38 have it: UTC without a zone."""
    return datetime.datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ")
