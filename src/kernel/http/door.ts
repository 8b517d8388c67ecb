import type { App } from '../app.ts';
import { Denials } from '../audit/denials.ts';
import { anonymous, type Actor, type Origin } from '../auth/actor.ts';
import type { Credentials } from '../auth/actors.ts';
import type { Stamp } from '../auth/rights.ts';
import { sha256Hex } from '../crypto.ts';
import { RateLimited, Unauthenticated } from '../errors.ts';
import { Latest } from '../latest.ts';
import { networkOf } from '../rates/address.ts';
import { defineThrottle, Throttles } from '../rates/throttles.ts';

/** Bad credentials by network: API keys and tokens that are not good, or no longer. */
export const badCredentials = defineThrottle({
  name: 'http.badCredentials',
  description: 'API keys, tokens and cookies that are not good, by network of the client',
  points: 60,
  durationS: 60,
});

/** Credentials that were good are remembered, so many at most, and no longer than this. */
const maxKnown = 10_000;
const knownForMs = 3_600_000;
/** Networks that are remembered as closed, at most. */
const maxClosed = 10_000;

/** Looks at credentials for HTTP and WebSocket. */
export interface Door {
  /**
   * @throws {Unauthenticated} for a credential that is not good
   * @throws {RateLimited} for one that was not looked at, because too many from its network were not good
   */
  authenticate(credentials: Credentials, origin: Origin): Promise<Actor>;
  /** The same with the rights that were read last, see `Actors.recall`. */
  recall(credentials: Credentials, origin: Origin): Actor | Promise<Actor>;
}

/**
 * The door counts credentials that are not good. When a network had too many in a minute, further ones of it are refused
 * without a look at the database. A network can be a whole company behind one address, so two things still pass: who
 * brings none (signing in has throttles of its own), and a credential that was good at this process within the last
 * hour. One cannot guess such a credential, and whether it is among them is told by a hash in memory; it is then checked
 * in full.
 */
export function createDoor(app: App): Door {
  const throttles = app.use(Throttles);
  const closed = new Latest<string, Date>(maxClosed);
  const known = new Latest<string, number>(maxKnown);

  const isKnown = (digest: string): boolean => (known.get(digest) ?? 0) > Date.now();

  /** Stamps of API keys that are among the known: of one key it is the same for a minute at most. */
  const noted = new WeakSet<Stamp>();
  const note = (actor: Actor, given: string): Actor => {
    // A session's is that of all its tokens.
    const stamp = actor.kind === 'API_KEY' ? actor.stamp : undefined;
    if (stamp && noted.has(stamp)) return actor;
    if (stamp) noted.add(stamp);
    known.set(digestOf(given), Date.now() + knownForMs);
    return actor;
  };
  const isClosed = (network: string): Date | null => {
    const until = closed.get(network);
    if (!until || until > new Date()) return until ?? null;
    closed.delete(network);
    return null;
  };

  const look = (how: 'authenticate' | 'recall', credentials: Credentials, origin: Origin): Actor | Promise<Actor> => {
    const given = credentials.apiKey || credentials.authorization || credentials.session;
    if (!given) return app.actors[how](credentials, origin);
    const until = closed.size > 0 ? isClosed(networkOf(origin.address)) : null;
    if (until && !isKnown(digestOf(given))) throw tooMany(until);
    const actor = app.actors[how](credentials, origin);
    if (!(actor instanceof Promise)) return note(actor, given);
    return actor.then(
      (found) => note(found, given),
      (error: unknown) => refuse(credentials, given, origin, error),
    );
  };

  const refuse = async (credentials: Credentials, given: string, origin: Origin, error: unknown): Promise<never> => {
    if (!(error instanceof Unauthenticated)) throw error;
    known.delete(digestOf(given));
    app.use(Denials).signIn({ ...anonymous, origin }, kindOf(credentials), 'CREDENTIAL');
    const network = networkOf(origin.address);
    // The first look of this process after another one closed the network finds it out here.
    const { remaining, resetAt } = await throttles.consume(badCredentials, network).catch((limited: unknown) => {
      if (limited instanceof RateLimited) return { remaining: 0, resetAt: limited.resetAt };
      throw limited;
    });
    if (remaining === 0 && resetAt) closed.set(network, resetAt);
    throw error;
  };

  return {
    authenticate: async (credentials, origin) => look('authenticate', credentials, origin),
    recall: (credentials, origin) => look('recall', credentials, origin),
  };
}

/** Of the credential alone, in whichever header it comes. */
const digestOf = (given: string): string => sha256Hex(given.replace(/^Bearer /i, ''));

/** What a credential that is not good claims to be. */
const kindOf = ({ apiKey, authorization }: Credentials): string =>
  apiKey || /^Bearer sy_/i.test(authorization ?? '') ? 'API_KEY' : authorization ? 'TOKEN' : 'SESSION';

const tooMany = (until: Date): RateLimited =>
  new RateLimited(until, 'Too many credentials from your address were not good.');
