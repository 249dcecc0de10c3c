/**
 * How much a client may ask of the server before it is made to wait or is dropped. Together they bound the
 * memory of one connection: `inFlightBytes` + `replyBacklogBytes` + two payloads of 32 MiB (one being
 * received, one being answered) + the receive buffers that unanswered writes point into.
 */
export interface NbdLimits {
  /** Requests handed to the device and not answered; more are left unread in the socket. */
  readonly inFlightRequests: number;
  /** Payload bytes of those requests, both directions, and what they look up in maps. */
  readonly inFlightBytes: number;
  /** Replies that the client has not taken yet. */
  readonly replyBacklogBytes: number;
  /** How long a client may keep the server waiting during the handshake, in total. */
  readonly handshakeTimeoutMs: number;
  readonly handshakeOptions: number;
  /** Data of one option; a longer one is skipped and answered ERR_TOO_BIG. */
  readonly optionBytes: number;
  /** All bytes of one handshake. */
  readonly handshakeBytes: number;
  /** Connections at a time, over all listeners; more are closed at once. */
  readonly connections: number;
}

const kibi = 1024;
const mebi = 1024 * kibi;

export const defaultLimits: NbdLimits = {
  inFlightRequests: 1024,
  inFlightBytes: 64 * mebi,
  replyBacklogBytes: 8 * mebi,
  handshakeTimeoutMs: 30_000,
  handshakeOptions: 256,
  optionBytes: 64 * kibi,
  handshakeBytes: mebi,
  connections: 1024,
};

/** Descriptors of one BLOCK_STATUS reply; a client asks again for the rest. */
export const maxExtentsPerReply = 8192;
