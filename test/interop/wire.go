package interop

// A client program reads commands and writes events, one JSON object a line. It answers every command with one reply, and
// tells of messages and lost connections when they come. The same words serve the clients in Go, JavaScript and Python.

// command is what a client is to do.
type command struct {
	N      int    `json:"n"`      // comes back in the reply
	Do     string `json:"do"`     // connect, subscribe, unsubscribe, publish, disconnect
	Client string `json:"client"` // which of the program's connections

	// connect
	Host    string        `json:"host,omitempty"`
	Port    int           `json:"port,omitempty"`
	ID      string        `json:"id,omitempty"`
	Version int           `json:"version,omitempty"` // 4 is MQTT 3.1.1
	Clean   bool          `json:"clean,omitempty"`
	Alive   int           `json:"alive,omitempty"` // keep alive, seconds
	User    string        `json:"user,omitempty"`
	Pass    string        `json:"pass,omitempty"`
	Will    *message      `json:"will,omitempty"`
	Options *connectProps `json:"options,omitempty"`

	// subscribe, unsubscribe
	Filters []filter `json:"filters,omitempty"`
	SubID   int      `json:"subid,omitempty"`

	Message *message `json:"message,omitempty"` // publish
	Reason  int      `json:"reason,omitempty"`  // disconnect
}

// connectProps are the MQTT 5 properties of CONNECT that scenarios use.
type connectProps struct {
	Expiry   int `json:"expiry,omitempty"` // session expiry, seconds
	AliasMax int `json:"alias_max,omitempty"`
	Receive  int `json:"receive,omitempty"`
}

type filter struct {
	Filter   string `json:"filter"`
	QoS      int    `json:"qos"`
	NoLocal  bool   `json:"no_local,omitempty"`
	AsIs     bool   `json:"as_published,omitempty"` // retain as published
	Handling int    `json:"handling,omitempty"`     // retain handling
}

// message is a PUBLISH as it goes out, as it comes in, or a will.
type message struct {
	Topic   string        `json:"topic"`
	Payload []byte        `json:"payload"` // base64 on the wire
	QoS     int           `json:"qos"`
	Retain  bool          `json:"retain"`
	Props   *messageProps `json:"props,omitempty"`
}

type messageProps struct {
	Format      *int        `json:"format,omitempty"`
	ContentType string      `json:"content_type,omitempty"`
	Response    string      `json:"response,omitempty"`
	Correlation []byte      `json:"correlation,omitempty"`
	User        [][2]string `json:"user,omitempty"`
	Expiry      int         `json:"expiry,omitempty"`
	Alias       int         `json:"alias,omitempty"`  // sent only
	Delay       int         `json:"delay,omitempty"`  // will delay, sent only
	SubIDs      []int       `json:"subids,omitempty"` // received only
}

// event is what a client tells.
type event struct {
	Ev      string         `json:"ev"` // reply, message, lost
	N       int            `json:"n,omitempty"`
	Client  string         `json:"client,omitempty"`
	Error   string         `json:"error,omitempty"`   // in the library's words
	Code    int            `json:"code,omitempty"`    // return or reason code
	Codes   []int          `json:"codes,omitempty"`   // of SUBACK and UNSUBACK
	Present bool           `json:"present,omitempty"` // session present
	Props   map[string]any `json:"props,omitempty"`   // of CONNACK
	Message *message       `json:"message,omitempty"`
}
