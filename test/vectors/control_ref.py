"""The messages of docs/spec/control.md: their encoding, and how a member takes a Grant and an Epoch.

Written from the document. Everything refused raises Refused with the class that the vectors name.
"""

import hashlib
import re

import cbor2

import hpke_ref
from sealgate_ref import MAX_SEQ, NAME, Refused, commitment, decode, encode, hkdf, ratchet, unwrap, verify_sign1

MAX_MESSAGE, MAX_EPOCH_MESSAGE = 256 << 10, 32 << 10
MAX_VALUE = 2**48 - 1
MAX_NUMBER_JUMP, MAX_GENERATION_JUMP, MAX_GRANT_JUMP = 4096, 1 << 16, 1 << 32
DAY, TWO_YEARS = 24 * 3600 * 1000, 2 * 366 * 24 * 3600 * 1000
PUBLIC_SIZE = 1216


# Section 4: what a payload may be. Each check returns its item.


def refuse(why):
    raise Refused("parse", why)


def array(item, low, high):
    if type(item) is not list or not low <= len(item) <= high:
        refuse(f"not an array of {low} to {high}")
    return item


def octets(item, length):
    if type(item) is not bytes or len(item) != length:
        refuse(f"not {length} bytes")
    return item


def number(item, low, high):
    if type(item) is not int or not low <= item <= high:
        refuse(f"not a number from {low} to {high}")
    return item


def name(item):
    if type(item) is not str or not re.fullmatch(NAME, item):
        refuse("not a name")
    return item


def version(item):
    return number(item, 0, 2**64 - 1)


def counted(item):
    return number(item, 1, MAX_VALUE)


def ascending(groups):
    names = [g["group"] for g in groups]
    if names != sorted(set(names), key=lambda s: s.encode()):
        refuse("groups are not in ascending order, each once")
    return groups


def head(payload, kind, items):
    m = array(decode(payload, "parse"), items, items)
    if m[0] != kind:
        refuse("another kind")
    return m[1:]


def hello(payload):
    want, inbox, public, nonce, policy, policy_hash, groups = head(payload, "hello", 8)
    number(want, 0, 1)
    octets(public, 0 if want else PUBLIC_SIZE)

    def group(item):
        n, generation, num = array(item, 3, 3)
        return {"group": name(n), "generation": number(generation, 0, MAX_VALUE), "number": number(num, 0, MAX_VALUE)}

    return {
        "want": "confirm" if want else "keys", "inbox": octets(inbox, 16), "public_key": public, "nonce": octets(nonce, 16),
        "policy_version": version(policy), "policy_hash": octets(policy_hash, 32), "groups": ascending([group(g) for g in array(groups, 1, 256)]),
    }  # fmt: skip


def grant(payload):
    nonce, policy, policy_hash, sealed = head(payload, "grant", 5)
    if type(sealed) is not bytes:
        refuse("sealed is no byte string")
    return {"nonce": octets(nonce, 16), "policy_version": version(policy), "policy_hash": octets(policy_hash, 32), "sealed": sealed}


def granted_key(item):
    policy, generation, num, keeper, cert, active_in, superseded, secret = array(item, 8, 8)
    return {
        "epoch": [version(policy), counted(generation), counted(num)], "keeper": name(keeper), "certificate": octets(cert, 32),
        "active_in_ms": number(active_in, 0, DAY), "superseded_ms_ago": number(superseded, 0, TWO_YEARS), "secret": octets(secret, 32),
    }  # fmt: skip


def granted_group(item):
    group, generation, founder, following, kek, keys, *topics = array(item, 6, 7)
    g = {"group": name(group), "generation": counted(generation), "founder": name(founder), "next": counted(following), "kek": octets(kek, 32)}
    g["keys"] = [granted_key(k) for k in array(keys, 1, 1024)]
    if topics:
        g["topic_key"] = octets(topics[0], 32)
    epochs = [k["epoch"] for k in g["keys"]]
    if epochs != sorted(epochs, reverse=True):
        refuse("epochs are not in falling order")
    if epochs[0][1:] != [generation, following - 1]:
        refuse("the KEK is not of the epoch after the newest")
    return g


def grant_keys(payload):
    groups = ascending([granted_group(g) for g in array(decode(payload, "parse"), 1, 256)])
    if sum(len(g["keys"]) for g in groups) > 1280:
        refuse("too many secrets")
    return groups


def grant_info(signed_hello, keeper_hash, policy_hash):
    return encode(["sealgate v1 grant", hashlib.sha256(signed_hello).digest(), keeper_hash, policy_hash])


def epoch(payload):
    group, policy, policy_hash, generation, founder, wraps = head(payload, "epoch", 7)

    def one(item):
        num, minter, cert, activate, salt, committed, ciphertext = array(item, 7, 7)
        return {
            "number": counted(num), "minter": name(minter), "certificate": octets(cert, 32),
            "activate_after_ms": number(activate, 0, DAY), "salt": octets(salt, 32), "commitment": octets(committed, 32), "ciphertext": octets(ciphertext, 48),
        }  # fmt: skip

    e = {"group": name(group), "policy_version": version(policy), "policy_hash": octets(policy_hash, 32), "generation": counted(generation), "founder": name(founder)}
    e["wraps"] = [one(w) for w in array(wraps, 1, 8)]
    newest = e["wraps"][0]["number"]
    if [w["number"] for w in e["wraps"]] != [newest - i for i in range(len(wraps))]:
        refuse("numbers do not fall by one")
    return e


def newest_epochs(groups):
    def group(item):
        n, generation, num, committed = array(item, 4, 4)
        return {"group": name(n), "generation": counted(generation), "number": counted(num), "commitment": octets(committed, 32)}

    return ascending([group(g) for g in array(groups, 1, 256)])


def confirm(payload):
    policy, policy_hash, groups, nonces = head(payload, "confirm", 5)
    return {
        "policy_version": version(policy), "policy_hash": octets(policy_hash, 32),
        "groups": newest_epochs(groups), "nonces": [octets(n, 16) for n in array(nonces, 1, 64)],
    }  # fmt: skip


def lease(payload):
    policy, policy_hash, boot, tick, groups = head(payload, "lease", 6)
    return {
        "policy_version": version(policy), "policy_hash": octets(policy_hash, 32),
        "boot": octets(boot, 16), "tick": counted(tick), "groups": newest_epochs(groups),
    }  # fmt: skip


def checkpoint(payload):
    group, boot, num, state, streams = head(payload, "checkpoint", 6)

    def stream(item):
        topic, kid, first, following, burned, final = array(item, 6, 6)
        number(first, 0, MAX_SEQ + 1)
        if number(following, 0, MAX_SEQ + 1) < first or type(final) is not bool:
            refuse("a stream that goes back, or final is no boolean")
        low = first
        for r in array(burned, 0, 16):
            a, b = array(r, 2, 2)
            if not low <= number(a, 0, MAX_SEQ) <= number(b, 0, MAX_SEQ) < following:
                refuse("burned numbers are out of place")
            low = b + 2
        x = {"topic": octets(topic, 16), "kid": octets(kid, 12), "from": first, "next": following, "final": final}
        return {**x, "burned": burned} if burned else x

    m = {"group": name(group), "boot": octets(boot, 16), "number": number(num, 0, MAX_VALUE), "state": number(state, 0, 2)}
    m["streams"] = [stream(x) for x in array(streams, 0, 256)]
    kids = [x["kid"] for x in m["streams"]]
    if kids != sorted(set(kids)):
        refuse("streams are not in ascending order, each once")
    return m


def topic_digest(secret, group, topic):
    return hkdf(secret, b"", ["sealgate v1 topic digest", group, hashlib.sha256(topic.encode()).digest()], 16)


PARSERS = {"hello": hello, "grant": grant, "grant-keys": grant_keys, "epoch": epoch, "confirm": confirm, "lease": lease, "checkpoint": checkpoint}


# Section 3.2: who may say what


class Member:
    """What a receiver goes by: its fleet, the policy in force, the time.

    policy has version, hash, keepers (names by group, by rank) and revoked (names)."""

    def __init__(self, fleet, ca, now, policy):
        self.fleet, self.ca, self.now, self.policy = fleet, ca, now, policy

    def verify(self, message, kind, limit):
        """Returns the payload, and name and certificate hash of a sender that may be a keeper."""
        if len(message) > limit:
            refuse("too large")
        payload, role, sender, cert_hash = verify_sign1(message, kind, self.fleet, self.ca, self.now)
        if role not in ("gateway", "keeper"):
            raise Refused("role", role)
        if sender in self.policy["revoked"]:
            raise Refused("revoked", sender)
        return payload, sender, cert_hash

    def keeps(self, sender, group):
        return sender in self.policy["keepers"].get(group, [])

    def check_policy(self, m):
        if (m["policy_version"], m["policy_hash"]) != (self.policy["version"], self.policy["hash"]):
            raise Refused("policy", "made under another policy than ours")

    def take_grant(self, message, signed_hello, inbox_seed):
        """Section 6.2: the groups that the Grant brings, each key with its commitment and id."""
        payload, sender, cert_hash = self.verify(message, "grant", MAX_MESSAGE)
        answer, asked = grant(payload), hello(cbor2.loads(signed_hello).value[2])
        if answer["nonce"] != asked["nonce"]:
            raise Refused("nonce", "answers another Hello")
        groups = [g["group"] for g in asked["groups"] if self.keeps(sender, g["group"])]
        if not groups:
            raise Refused("keeper", sender)
        self.check_policy(answer)
        info = grant_info(signed_hello, cert_hash, answer["policy_hash"])
        body = grant_keys(hpke_ref.open_sealed(hpke_ref.Key(inbox_seed), info, answer["sealed"]))
        taken = [g for g in body if g["group"] in groups]
        for g in taken:
            for k in g["keys"]:
                if k["epoch"][0] > self.policy["version"]:
                    raise Refused("policy", "a key of a later policy")
                k["commitment"] = commitment(k["secret"], g["group"])
                k["key_id"] = k["commitment"][:4]
        return taken

    def take_epoch(self, group, message, kek, highest):
        """Section 6.3. kek has generation, founder, next and kek; highest is the highest epoch known.

        Returns the KEK as it is afterwards, and the epochs that are new, oldest first."""
        payload, sender, _ = self.verify(message, "epoch", MAX_EPOCH_MESSAGE)
        e = epoch(payload)
        if not self.keeps(sender, group):
            raise Refused("keeper", sender)
        if e["group"] != group:
            raise Refused("topic", e["group"])
        for w in e["wraps"]:
            if not self.keeps(w["minter"], group):
                raise Refused("keeper", w["minter"])
        self.check_policy(e)
        newest = [e["policy_version"], e["generation"], e["wraps"][0]["number"]]
        if newest < highest:
            raise Refused("stale", newest)
        if newest[1] > highest[1] + MAX_GENERATION_JUMP or newest[2] > highest[2] + MAX_NUMBER_JUMP:
            raise Refused("jump", newest)
        if (kek["generation"], kek["founder"]) != (e["generation"], e["founder"]) or newest[2] < kek["next"]:
            raise Refused("kek", "no KEK of this generation")
        following, key, taken = kek["next"], kek["kek"], []
        for w in reversed(e["wraps"]):
            if w["number"] < following:
                continue
            while following < w["number"]:
                following, key = following + 1, ratchet(key, group)
            context = self.fleet, group, e["generation"], w["number"], w["minter"]
            secret = unwrap(key, w["salt"], w["commitment"], w["ciphertext"], *context)
            following, key = following + 1, ratchet(key, group)
            taken.append({"number": w["number"], "minter": w["minter"], "certificate": w["certificate"], "activate_after_ms": w["activate_after_ms"],
                          "secret": secret, "commitment": w["commitment"], "key_id": w["commitment"][:4]})  # fmt: skip
        return {**kek, "next": following, "kek": key}, taken
