#!/usr/bin/python3
"""Checks the test vectors beside this file with the second implementation: all, or those of the directories named.

Needs Debian's python3-cbor2 and python3-cryptography. Prints one line for each vector that
fails and a summary; exits 0 only if there were vectors and none failed.
"""

import hashlib
import json
import pathlib
import sys

import control_ref
import enrol_ref
import hpke_ref
import mlkem768
import sealgate_ref as ref

HERE = pathlib.Path(__file__).resolve().parent


def octets(text):
    unit, _, count = text.partition("*")
    return bytes.fromhex(unit) * (int(count) if count else 1)


def same(what, got, want):
    if got != want:
        show = lambda v: v.hex()[:120] if isinstance(v, bytes) else repr(v)
        raise AssertionError(f"{what} is {show(got)}, expected {show(want)}")


def outcome(f):
    """What f returns, and the class of its refusal or "ok"."""
    try:
        return f(), "ok"
    except ref.Refused as e:
        return None, e.kind


def check_envelope(v):
    secret, stream = octets(v["secret"]), octets(v["stream"])
    props, payload = octets(v["props"]), octets(v["payload"])
    envelope = octets(v.get("envelope", ""))
    if v["expect"] in ("ok", "exhausted"):
        sealed, kind = outcome(lambda: ref.seal(secret, v["group"], v["topic"], stream, v["seq"], props, payload, v.get("pad", 0), v.get("name", "")))
        same("sealing", kind, v["expect"])
        if kind != "ok":
            return
        kid = ref.commitment(secret, v["group"])[:4] + stream
        same("key, Base IV", ref.stream_keys(secret, v["group"], v["topic"], stream), (octets(v["key"]), octets(v["base_iv"])))
        same("additional data", ref.additional_data(v["group"], v["topic"], kid), octets(v["aad"]))
        if "envelope_sha256" in v:
            same("length", len(sealed), v["envelope_length"])
            same("digest", hashlib.sha256(sealed).digest(), octets(v["envelope_sha256"]))
            envelope = sealed
        same("envelope", sealed, envelope)
    opened, kind = outcome(lambda: ref.open_envelope(secret, v["group"], v["topic"], envelope, octets(v.get("topic_key", ""))))
    same("opening", kind, v["expect"])
    if kind == "ok":
        same("opened message", opened[1:], (v["seq"], props, payload))


def check_topic(v):
    key = octets(v["key"])
    if "secret" in v:
        same("topic key", ref.topic_key(octets(v["secret"]), v["fleet"], v["number"]), key)
    same("hidden topic", ref.hide(key, v["topic"]), v["hidden"])


def check_keys(v):
    def ratchet():
        kek = octets(v["secret"])
        for _ in range(v["steps"]):
            kek = ref.ratchet(kek, v["group"])
        return kek

    got = {
        "commitment": lambda: ref.commitment(octets(v["secret"]), v["group"]),
        "stream-id": lambda: ref.stream_id(v["gateway"], octets(v["boot"]), octets(v["random"]), v.get("will", False)),
        "ratchet": ratchet,
    }[v["derive"]]()
    same(v["derive"], got, octets(v["output"]))


def check_epoch(v):
    kek, salt, ciphertext = octets(v["kek"]), octets(v["salt"]), octets(v["ciphertext"])
    context = v["fleet"], v["group"], v["generation"], v["number"], v["keeper"]
    secret, kind = outcome(lambda: ref.unwrap(kek, salt, octets(v["commitment"]), ciphertext, *context))
    same("unwrapping", kind, v["expect"])
    if kind == "ok":
        same("secret", secret, octets(v["secret"]))
        same("wrap", ref.wrap(kek, salt, secret, *context), ciphertext)


def check_sign1(v):
    now, policy = ref.timestamp(v["now"]), v.get("policy", False)
    got, kind = outcome(lambda: ref.verify_sign1(octets(v["message"]), v["type"], v["fleet"], octets(v["ca"]), now, policy))
    same("verifying", kind, v["expect"])
    if kind == "ok":
        m = v["member"]
        same("payload and member", got, (octets(v["payload"]), m["role"], m["name"], octets(m["cert_hash"])))


def check_window(v):
    w = ref.Window(v.get("resume"))
    for i, s in enumerate(v["steps"]):
        same(f"verdict {i}", w.check(s["seq"]), s["verdict"])
        same(f"gap {i}", w.commit(s["seq"]), s.get("gap", 0))
    same("missing", w.missing(), v["missing"])


def check_mlkem(v):
    public = octets(v["public"])
    if "random" in v:
        try:
            shared, ciphertext = mlkem768.encapsulate(public, octets(v["random"]))
        except ValueError:
            same("encapsulation", "public", v["expect"])
            return
        same("ciphertext and shared secret", (ciphertext, shared), (octets(v["ciphertext"]), octets(v["shared"])))
        same("encapsulation", "ok", v["expect"])
    ek, key = mlkem768.keygen(octets(v["seed"]))
    same("public key", ek, public)
    same("decapsulation", mlkem768.decapsulate(key, octets(v["ciphertext"])), octets(v["shared"]))


def check_hpke(v):
    public, info, aad = octets(v["public"]), octets(v["info"]), octets(v.get("aad", ""))
    plaintext = octets(v.get("plaintext", ""))
    random = octets(v["random"]) if "random" in v else bytes(64)
    sealed, kind = outcome(lambda: hpke_ref.seal(public, info, plaintext, random, aad))
    if v["expect"] == "public":
        same("sealing", kind, "public")
        return
    key = hpke_ref.Key(octets(v["seed"]))
    same("public key", key.public, public)
    if "random" in v:
        same("sealed message", sealed, octets(v["sealed"]))
    opened, kind = outcome(lambda: hpke_ref.open_sealed(key, info, octets(v["sealed"]), aad))
    same("opening", kind, v["expect"])
    if kind == "ok":
        same("opened message", opened, plaintext)


def shown(item):
    """item with its byte strings in hex, as JSON has them."""
    if isinstance(item, bytes):
        return item.hex()
    if isinstance(item, dict):
        return {k: shown(v) for k, v in item.items()}
    return [shown(v) for v in item] if isinstance(item, list) else item


def check_control(v):
    f = v.get("fields")
    if v["kind"] == "topic-digest":
        same("digest", control_ref.topic_digest(octets(f["secret"]), f["group"], f["topic"]), octets(v["payload"]))
        return
    if v["kind"] == "grant-info":
        info = control_ref.grant_info(octets(f["hello"]), octets(f["keeper_cert_hash"]), octets(f["policy_hash"]))
        same("info", info, octets(v["payload"]))
        return
    fields, kind = outcome(lambda: control_ref.PARSERS[v["kind"]](octets(v["payload"])))
    same("parsing", kind, v["expect"])
    if kind == "ok":
        same("fields", shown(fields), f)


def receiver(v):
    policy = {**v["policy"], "hash": octets(v["policy"]["hash"])}
    return control_ref.Member(v["fleet"], octets(v["ca"]), ref.timestamp(v["now"]), policy)


def check_grant(v):
    groups, kind = outcome(lambda: receiver(v).take_grant(octets(v["message"]), octets(v["hello"]), octets(v["inbox_seed"])))
    same("the Grant", kind, v["expect"])
    if kind == "ok":
        same("granted", shown(groups), v["groups"])


def check_announcement(v):
    kek = {**v["kek"], "kek": octets(v["kek"]["kek"])}
    got, kind = outcome(lambda: receiver(v).take_epoch(v["group"], octets(v["message"]), kek, v["highest"]))
    same("the announcement", kind, v["expect"])
    if kind == "ok":
        same("KEK afterwards", shown(got[0]), v["kek_after"])
        same("new epochs", shown(got[1]), v["epochs"])


def check_enrol(v):
    if v["kind"] == "ticket":
        got, kind = outcome(lambda: enrol_ref.ticket(v.get("text", "")))
        if kind == "ok":
            encoded, got = got
            same("array", encoded, octets(v["payload"]))
    else:
        got, kind = outcome(lambda: enrol_ref.PARSERS[v["kind"]](octets(v.get("payload", ""))))
    same("parsing", kind, v["expect"])
    if kind == "ok":
        if v["kind"] == "request":
            got["mac_key"] = octets(v["fields"]["mac_key"])
            same("MAC", enrol_ref.request_mac(got["mac_key"], got), got["mac"])
        same("fields", shown(got), v["fields"])


KINDS = ("envelope", "topic", "keys", "epoch", "sign1", "window", "mlkem", "hpke", "control", "grant", "announcement", "enrol")


def main():
    total = failed = 0
    for kind in sys.argv[1:] or KINDS:
        files = sorted((HERE / kind).glob("*.json"))
        if not files:
            print(f"no vectors in {HERE / kind}", file=sys.stderr)
            failed += 1
        for file in files:
            total += 1
            try:
                globals()["check_" + kind](json.loads(file.read_text()))
            except Exception as e:
                failed += 1
                print(f"{kind}/{file.name}: {e or type(e).__name__}", file=sys.stderr)
    print(f"{total} vectors, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
