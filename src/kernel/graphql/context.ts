import type { Actor } from '../auth/actor.ts';
import type { App } from '../app.ts';
import type { Rate } from '../rates/budgets.ts';

/** What every resolver is given. */
export interface Context {
  readonly app: App;
  /** Who asks. Changes only where the operation itself signs in or gains a workspace. */
  actor: Actor;
  /**
   * Looks up who asks, with the rights of now; absent where `actor` has those.
   * @throws {Unauthenticated} when the credential has ended
   */
  readonly confirmActor?: (() => Promise<Actor>) | undefined;
  readonly requestId: string;
  /** What the operation took from its client's budget; undefined before it was admitted. */
  rate?: Rate;
  /** Address of the client, as far as the trusted proxies tell it; null inside the server. */
  readonly clientAddress: string | null;
  /** Sets or clears the session cookie of an HTTP response; null on other transports. */
  readonly setSession: ((session: { token: string; expiresAt: Date } | null) => void) | null;
  /** Aborts when the client of an HTTP request is gone before it has its answer; null on other transports. */
  readonly gone: AbortSignal | null;
  /** Ends the connection of a live stream whose rights are gone. */
  readonly endStreams: ((reason: string) => void) | null;
}

/**
 * Makes sure that `context.actor` has the rights of now: to be waited for before anything is read for it, unless what
 * reads checks its stamp itself (`stampHolds`), and comes here when that does not hold.
 * @throws {Unauthenticated} when the credential has ended
 */
export function confirm(context: Context): void | Promise<void> {
  if (!context.actor.stamp || !context.confirmActor) return undefined;
  return context.confirmActor().then((actor) => {
    context.actor = actor;
  });
}
