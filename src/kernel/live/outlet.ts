/** The way to one subscriber: messages of one operation on one connection. */
export interface Outlet {
  /** Sends a payload, `{"data":…}`, followed by the brace that closes the message; bytes as {@link bytesOf} gives them. */
  send(payload: string): void;
  /** True while more lies unsent than a client is given. */
  readonly behind: boolean;
  /** Resolves when nothing lies unsent, or the connection is gone. */
  drained(): Promise<void>;
}

/** The UTF-8 of a text, a character for each byte. */
export const bytesOf = (text: string): string => Buffer.from(text).toString('latin1');
