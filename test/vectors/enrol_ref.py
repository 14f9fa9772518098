"""Tickets and messages of docs/spec/enrol.md, written from the document."""

import base64
import hashlib
import hmac

from control_ref import PUBLIC_SIZE, array, head, name, number, octets, refuse
from sealgate_ref import decode, encode, hkdf

ROLES = ("gateway", "keeper", "subscriber", "operator")
YEAR_9999 = 253402300799
PREFIX, MAX_TICKET, MAX_REQUEST, MAX_OFFER, MAX_CERT = "sealgate-ticket-1-", 512, 4096, 16384, 8192


def role(item):
    return ROLES[number(item, 0, 3)]


def seconds(item):
    return number(item, 0, YEAR_9999)


def some(item, low, high):
    if type(item) is not bytes or not low <= len(item) <= high:
        refuse(f"not {low} to {high} bytes")
    return item


def checksum(encoded):
    return hashlib.sha256(encode("sealgate v1 ticket") + encoded).digest()[:4]


def ticket(text):
    """The ticket of a text, its encoded array first."""
    text = "".join(text.split())
    if len(text) > MAX_TICKET or not text.startswith(PREFIX):
        refuse("no ticket")
    text = text[len(PREFIX) :]
    try:
        data = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except ValueError:
        refuse("not base64url")
    if base64.urlsafe_b64encode(data).rstrip(b"=").decode() != text:
        refuse("not base64url in its only form")
    encoded = data[:-4]
    if checksum(encoded) != data[-4:]:
        refuse("a typing mistake")
    fleet, r, member, anchor, expires, secret = array(decode(encoded, "parse"), 6, 6)
    t = {"fleet": name(fleet), "role": role(r), "name": name(member), "anchor": octets(anchor, 32), "expires": seconds(expires), "secret": octets(secret, 32)}
    for key, label, length in (("id", "sealgate v1 ticket id", 16), ("mac_key", "sealgate v1 enrol mac", 32)):
        t[key] = hkdf(secret, b"", [label, fleet, r, member, anchor, expires], length)
    return encoded, t


def offer(payload):
    if len(payload) > MAX_OFFER:
        refuse("too large")
    fleet, ca, key = head(payload, "enrol-offer", 4)
    anchor = hashlib.sha256(payload).digest()
    topic = "sealgate/enrol/" + anchor[:8].hex()
    return {"fleet": name(fleet), "ca": some(ca, 1, MAX_CERT), "key": octets(key, PUBLIC_SIZE), "anchor": anchor, "request_topic": topic, "offer_topic": topic + "/offer"}


def request(payload):
    if len(payload) > MAX_REQUEST:
        refuse("too large")
    t, inbox, sealed, mac = head(payload, "enrol-request", 5)
    return {"ticket": octets(t, 16), "inbox": octets(inbox, 16), "sealed": some(sealed, 0, MAX_REQUEST), "mac": octets(mac, 32)}


def request_mac(mac_key, r):
    return hmac.digest(mac_key, encode(["enrol-request", r["ticket"], r["inbox"], r["sealed"]]), "sha256")


def request_body(payload):
    key, reply, proof = array(decode(payload, "parse"), 3, 3)
    return {"key": some(key, 1, 128), "reply": octets(reply, PUBLIC_SIZE), "proof": some(proof, 1, 80)}


def answer(payload):
    req, verdict, time, sealed = head(payload, "enrol-answer", 5)
    a = {"request": octets(req, 32), "verdict": number(verdict, 0, 7), "time": seconds(time), "sealed": some(sealed, 0, 655360)}
    if (verdict == 0) != (sealed != b""):
        refuse("a grant seals something, a refusal nothing")
    return a


def grant(payload):
    chain, policy = array(decode(payload, "parse"), 2, 2)
    return {"chain": [some(c, 1, MAX_CERT) for c in array(chain, 1, 4)], "policy": some(policy, 0, 2**20)}


def book(payload):
    version, key, tickets = array(decode(payload, "parse"), 3, 3)
    number(version, 1, 1)

    def entry(item):
        i, r, member, secret, made, expires, use = array(item, 7, 7)
        e = {"id": octets(i, 16), "role": role(r), "name": name(member), "secret": octets(secret, 32), "made": seconds(made), "expires": seconds(expires)}
        if use != []:
            used, key_hash, certificate = array(use, 3, 3)
            e |= {"used": seconds(used), "key_hash": octets(key_hash, 32), "certificate": some(certificate, 1, MAX_CERT)}
        return e

    entries = [entry(t) for t in array(tickets, 0, 4096)]
    if len({e["id"] for e in entries}) != len(entries):
        refuse("a ticket twice")
    return {"key": octets(key, 32), "tickets": entries}


PARSERS = {"offer": offer, "request": request, "request-body": request_body, "answer": answer, "grant": grant, "book": book}
