import type { GraphQLError } from 'graphql';

/** The way to one subscriber: messages of one operation on one connection. */
export interface Outlet {
  /** Sends a payload, `{"data":…}`, followed by the brace that closes the message; bytes as {@link bytesOf} gives them. */
  send(payload: string): void;
  /** True while more lies unsent than a client is given. */
  readonly behind: boolean;
  /** Resolves when nothing lies unsent, or the connection is gone. */
  drained(): Promise<void>;
  /** Takes note of who sends: it is stopped when the client wants no more, or is gone. */
  follow(follower: Follower): void;
  /** Tells that nothing more comes, and why. The last thing that is sent. */
  end(error: GraphQLError | null): void;
}

/**
 * What a subscription is answered with where its payloads go to an outlet: nobody has to iterate it, or to keep anything
 * of the operation.
 */
export abstract class Follower {
  /** From now on the subscriber is told. Once. */
  abstract begin(): void;
  /** Nobody listens any more. */
  abstract stop(): void;
}

/** The UTF-8 of a text, a character for each byte. */
export const bytesOf = (text: string): string => Buffer.from(text).toString('latin1');

/** The text of those. */
export const textOf = (bytes: string): string => Buffer.from(bytes, 'latin1').toString();
