"""The client with Debian's python3-paho-mqtt. See ../wire.go for the commands and events."""
import base64
import json
import sys
import threading

import paho.mqtt.client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCodes
from paho.mqtt.subscribeoptions import SubscribeOptions

out_lock = threading.Lock()
clients = {}


def tell(**event):
    with out_lock:
        print(json.dumps({k: v for k, v in event.items() if v is not None}), flush=True)


def number(code):
    return code.value if isinstance(code, ReasonCodes) else int(code)


def message_properties(p, packet):
    props = Properties(packet)
    if not p:
        return props
    names = {"format": "PayloadFormatIndicator", "content_type": "ContentType", "response": "ResponseTopic",
             "expiry": "MessageExpiryInterval", "alias": "TopicAlias", "delay": "WillDelayInterval"}
    for key, name in names.items():
        if key in p:
            setattr(props, name, p[key])
    if "correlation" in p:
        props.CorrelationData = base64.b64decode(p["correlation"])
    for pair in p.get("user", []):
        props.UserProperty = tuple(pair)
    return props


def received_properties(props):
    if props is None:
        return None
    out = {}
    names = {"PayloadFormatIndicator": "format", "ContentType": "content_type", "ResponseTopic": "response",
             "MessageExpiryInterval": "expiry"}
    for name, key in names.items():
        if hasattr(props, name):
            out[key] = getattr(props, name)
    if hasattr(props, "CorrelationData"):
        out["correlation"] = base64.b64encode(props.CorrelationData).decode()
    if hasattr(props, "UserProperty"):
        out["user"] = [list(pair) for pair in props.UserProperty]
    if hasattr(props, "SubscriptionIdentifier"):
        ids = props.SubscriptionIdentifier
        out["subids"] = ids if isinstance(ids, list) else [ids]
    return out or None


class Client:
    """One connection. Replies may come before paho has returned the packet id, so both sides meet under a lock."""

    def __init__(self, name, cmd):
        self.aliases = {}
        self.name, self.v5, self.connecting, self.lock, self.waiting, self.early = name, cmd["version"] == 5, cmd["n"], threading.Lock(), {}, {}
        if self.v5:
            self.c = mqtt.Client(client_id=cmd["id"], protocol=mqtt.MQTTv5)
        else:
            self.c = mqtt.Client(client_id=cmd["id"], clean_session=cmd.get("clean", False), protocol=mqtt.MQTTv311)
        c = self.c
        c.reconnect_delay_set(3600, 3600)
        c.on_connect, c.on_disconnect, c.on_message = self.on_connect, self.on_disconnect, self.on_message
        c.on_subscribe, c.on_unsubscribe, c.on_publish = self.on_subscribe, self.on_unsubscribe, self.on_publish
        if cmd.get("user"):
            c.username_pw_set(cmd["user"], cmd.get("pass"))
        if "will" in cmd:
            w = cmd["will"]
            c.will_set(w["topic"], base64.b64decode(w["payload"] or ""), w["qos"], w["retain"],
                       message_properties(w.get("props"), PacketTypes.WILLMESSAGE) if self.v5 else None)
        more = {}
        if self.v5:
            props, o = Properties(PacketTypes.CONNECT), cmd.get("options", {})
            for key, name in {"expiry": "SessionExpiryInterval", "alias_max": "TopicAliasMaximum", "receive": "ReceiveMaximum"}.items():
                if key in o:
                    setattr(props, name, o[key])
            more = {"clean_start": cmd.get("clean", False), "properties": props}
        c.connect(cmd["host"], cmd["port"], cmd["alive"], **more)
        c.loop_start()

    def on_connect(self, c, userdata, flags, rc, props=None):
        told = None
        if props is not None:
            told = {k: v for k, v in props.json().items() if k != "AssignedClientIdentifier"}
        tell(ev="reply", n=self.connecting, client=self.name, code=number(rc), present=bool(flags["session present"]), props=told)
        if number(rc) != 0:
            self.c.disconnect()

    def on_disconnect(self, c, userdata, rc, props=None):
        with self.lock:
            waiting, self.waiting = self.waiting, {}
        for n in waiting.values():
            tell(ev="reply", n=n, client=self.name, error="connection lost")
        tell(ev="lost", client=self.name, code=number(rc))

    def on_message(self, c, userdata, m):
        topic, alias = m.topic, getattr(getattr(m, "properties", None), "TopicAlias", None)
        if alias is not None:  # the library leaves them to the application
            topic = self.aliases[alias] = topic or self.aliases[alias]
        tell(ev="message", client=self.name, message={"topic": topic, "payload": base64.b64encode(m.payload).decode(), "qos": m.qos,
             "retain": bool(m.retain), "props": received_properties(getattr(m, "properties", None))})

    def done(self, mid, **reply):
        with self.lock:
            if mid not in self.waiting:
                self.early[mid] = reply
                return
            n = self.waiting.pop(mid)
        tell(ev="reply", n=n, client=self.name, **reply)

    def sent(self, result, n):
        rc, mid = result
        if rc != mqtt.MQTT_ERR_SUCCESS:
            tell(ev="reply", n=n, client=self.name, error=mqtt.error_string(rc))
            return
        with self.lock:
            reply = self.early.pop(mid, None)
            if reply is None:
                self.waiting[mid] = n
        if reply is not None:
            tell(ev="reply", n=n, client=self.name, **reply)

    def on_subscribe(self, c, userdata, mid, granted, props=None):
        self.done(mid, codes=[number(g) for g in granted])

    def on_unsubscribe(self, c, userdata, mid, props=None, codes=None):
        codes = codes if isinstance(codes, list) else [codes]
        self.done(mid, codes=[number(g) for g in codes if g is not None])

    def on_publish(self, c, userdata, mid):
        self.done(mid)

    def subscribe(self, cmd):
        if not self.v5:
            return self.sent(self.c.subscribe([(f["filter"], f["qos"]) for f in cmd["filters"]]), cmd["n"])
        props = Properties(PacketTypes.SUBSCRIBE)
        if "subid" in cmd:
            props.SubscriptionIdentifier = cmd["subid"]
        filters = [(f["filter"], SubscribeOptions(f["qos"], f.get("no_local", False), f.get("as_published", False), f.get("handling", 0)))
                   for f in cmd["filters"]]
        self.sent(self.c.subscribe(filters, properties=props), cmd["n"])

    def unsubscribe(self, cmd):
        self.sent(self.c.unsubscribe([f["filter"] for f in cmd["filters"]]), cmd["n"])

    def publish(self, cmd):
        m = cmd["message"]
        props = message_properties(m.get("props"), PacketTypes.PUBLISH) if self.v5 else None
        info = self.c.publish(m["topic"], base64.b64decode(m["payload"] or ""), m["qos"], m["retain"], properties=props)
        self.sent((info.rc, info.mid), cmd["n"])

    def disconnect(self, cmd):
        if self.v5:
            # mochi-mqtt reads a reason code only where the length of properties follows
            self.c.disconnect(ReasonCodes(PacketTypes.DISCONNECT, identifier=cmd.get("reason", 0)), Properties(PacketTypes.DISCONNECT))
        else:
            self.c.disconnect()
        self.c.loop_stop()
        tell(ev="reply", n=cmd["n"], client=self.name)


for line in sys.stdin:
    command = json.loads(line)
    try:
        if command["do"] == "connect":
            clients[command["client"]] = Client(command["client"], command)
        else:
            getattr(clients[command["client"]], command["do"])(command)
    except Exception as e:
        tell(ev="reply", n=command["n"], client=command["client"], error=f"{type(e).__name__}: {e}")
