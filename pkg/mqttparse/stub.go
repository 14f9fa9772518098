package mqttparse

import "errors"

var errTODO = errors.New("mqttparse: not built yet")

type Error struct {
	Clause, Reason string
	ReasonCode     byte
}

func (e *Error) Error() string { return e.Reason }

type Scanner struct{ version Version }

func (s *Scanner) Init(d Direction, maxPacket int)             {}
func (s *Scanner) Next(buf []byte) (f Frame, n int, err error) { return f, 0, errTODO }
func (s *Scanner) Need() int                                   { return 0 }
func (s *Scanner) Version() Version                            { return s.version }
func (s *Scanner) SetVersion(v Version)                        { s.version = v }

type Publish struct {
	Dup, Retain                bool
	QoS                        byte
	PacketID                   uint16
	TopicAlias                 uint16 // as parsed (0: none); the property itself stays in Properties
	Topic, Properties, Payload []byte
}

func ParsePublish(f Frame, v Version, p *Publish) error                            { return errTODO }
func AppendPublishHeader(dst []byte, v Version, p *Publish, payloadLen int) []byte { return dst }
func PublishLen(v Version, p *Publish, payloadLen int) int                         { return 0 }

type Will struct {
	QoS                        byte
	Retain                     bool
	Topic, Payload, Properties []byte
}
type Connect struct {
	Version                                       Version
	ProtocolName                                  []byte
	CleanStart, HasWill, HasUsername, HasPassword bool
	KeepAlive                                     uint16
	Properties, ClientID, Username, Password      []byte
	Will                                          Will
}

func ParseConnect(f Frame, c *Connect) error      { return errTODO }
func AppendConnect(dst []byte, c *Connect) []byte { return dst }

type ConnAck struct {
	SessionPresent bool
	Code           byte
	Properties     []byte
}

func ParseConnAck(f Frame, v Version, c *ConnAck) error                          { return errTODO }
func AppendConnAck(dst []byte, v Version, sessionPresent bool, code byte) []byte { return dst }
func ParseAck(f Frame, v Version) (id uint16, reason byte, err error)            { return 0, 0, errTODO }
func AppendAck(dst []byte, v Version, t Type, id uint16, reason byte) []byte     { return dst }
func AppendDisconnect(dst []byte, v Version, reason byte) []byte                 { return dst }

type PropertyIter struct{ rest []byte }

func Properties(b []byte) PropertyIter             { return PropertyIter{b} }
func (it *PropertyIter) Next() bool                { return false }
func (it *PropertyIter) ID() byte                  { return 0 }
func (it *PropertyIter) Raw() []byte               { return nil }
func (it *PropertyIter) Value() []byte             { return nil }
func (it *PropertyIter) Uint() uint32              { return 0 }
func (it *PropertyIter) Pair() (key, value []byte) { return nil, nil }
func (it *PropertyIter) Err() error                { return nil }
func ValidateProperties(t Type, b []byte) error    { return errTODO }
