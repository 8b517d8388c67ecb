import { lookup as dnsLookup, Resolver } from 'node:dns/promises';
import ipaddr from 'ipaddr.js';
import { DomainError } from '#kernel/errors.ts';

/**
 * Why a URL was refused: it is no URL with a host, its scheme is not allowed, it carries a user name or password, its
 * host has no address (or the look-up took too long), or one of its addresses is not public.
 */
export type OutboundRefusal = 'INVALID_URL' | 'PROTOCOL' | 'CREDENTIALS' | 'UNRESOLVED' | 'ADDRESS';

/** The server does not talk to this URL. */
export class OutboundRefused extends DomainError {
  readonly code = 'OUTBOUND_REFUSED';
  /** The URL without credentials, query and fragment. */
  readonly url: string;
  readonly reason: OutboundRefusal;
  constructor(url: string, reason: OutboundRefusal, message: string) {
    super(message);
    this.url = url;
    this.reason = reason;
  }
}

/** All addresses of a host name, as text. Rejects when it has none, and may when the signal ends it. */
export type HostLookup = (host: string, signal: AbortSignal) => Promise<readonly string[]>;

export interface OutboundPolicyOptions {
  /** Also allow 127.0.0.0/8 and ::1: development and the demo only. */
  readonly allowLoopback: boolean;
  /** Also allow private networks (RFC 1918, RFC 4193): for addresses that the operator configured only. */
  readonly allowPrivate?: boolean;
  /**
   * Resolves a host name; default: the name servers of the system, and where private addresses or loopback are allowed
   * the system's resolver, which knows other names too.
   */
  readonly lookup?: HostLookup;
}

export interface OutboundCheckOptions {
  /** Schemes allowed beside `http:` and `https:`, with the colon, for instance `ssh:`. */
  readonly protocols?: readonly string[];
  readonly signal?: AbortSignal;
}

export interface CheckedUrl {
  readonly url: URL;
  /** At least one. Connect to these and do not resolve the host again: its answer may be another one by then. */
  readonly addresses: string[];
}

/** The one policy for every URL that a user can give. Ask it again for every redirect. */
export interface OutboundPolicy {
  /**
   * Resolves the host once and passes only when every address may be talked to.
   * @throws OutboundRefused
   */
  check(url: URL | string, options?: OutboundCheckOptions): Promise<CheckedUrl>;
}

const lookupTimeoutMs = 10_000;

/** Unicast that RFC 4291 and IANA have given out: what is outside of it is reserved, whatever a table forgets. */
const globalUnicast6 = ipaddr.parseCIDR('2000::/3');

/** @see https://www.iana.org/assignments/iana-ipv6-special-registry */
function isAllowed(address: string, allowLoopback: boolean, allowPrivate: boolean): boolean {
  // A zone (fe80::1%eth0) names an interface of this machine.
  if (address.includes('%') || !ipaddr.isValid(address)) return false;
  const parsed = ipaddr.process(address); // unwraps ::ffff:a.b.c.d
  const range = parsed.range();
  if (range === 'loopback') return allowLoopback;
  if (range === 'private' || range === 'uniqueLocal') return allowPrivate;
  if (range !== 'unicast') return false;
  return parsed.kind() === 'ipv4' || parsed.match(globalUnicast6);
}

async function systemLookup(host: string): Promise<string[]> {
  return (await dnsLookup(host, { all: true })).map((entry) => entry.address);
}

const dnsTimeoutMs = 3_000;

/**
 * Asks the name servers. The system's resolver takes one of two threads of the process until it has an answer, whatever
 * becomes of the request: whoever names hosts whose name servers say nothing would hold up everybody's look-ups, also
 * those of the database. This takes none, and ends when it is called off.
 * @param servers addresses of name servers; without them, those of the system
 */
export async function publicLookup(host: string, signal: AbortSignal, servers?: readonly string[]): Promise<string[]> {
  signal.throwIfAborted();
  const resolver = new Resolver({ timeout: dnsTimeoutMs, tries: 2 });
  if (servers) resolver.setServers(servers);
  const cancel = (): void => resolver.cancel();
  signal.addEventListener('abort', cancel, { once: true });
  try {
    const answers = await Promise.allSettled([resolver.resolve4(host), resolver.resolve6(host)]);
    const [first] = answers;
    // One of the two kinds will do.
    if (answers.every(({ status }) => status === 'rejected') && first.status === 'rejected') throw first.reason;
    return answers.flatMap((answer) => (answer.status === 'fulfilled' ? answer.value : []));
  } finally {
    signal.removeEventListener('abort', cancel);
  }
}

/** `url` as it may be logged and shown: without credentials, query and fragment. */
export function withoutSecrets(url: URL): string {
  return `${url.protocol}//${url.host}${url.pathname}`;
}

/** Makes the policy. It keeps nothing between two checks: an address that was good once may not be good now. */
export function createOutboundPolicy({
  allowLoopback,
  allowPrivate = false,
  lookup = allowLoopback || allowPrivate ? systemLookup : publicLookup,
}: OutboundPolicyOptions): OutboundPolicy {
  return {
    async check(given, { protocols = [], signal } = {}) {
      signal?.throwIfAborted();
      let url: URL;
      try {
        url = new URL(given);
      } catch {
        throw new OutboundRefused('', 'INVALID_URL', 'This is not a URL.');
      }
      const shown = withoutSecrets(url);
      if (!['http:', 'https:', ...protocols].includes(url.protocol)) {
        throw new OutboundRefused(shown, 'PROTOCOL', `The scheme ${url.protocol} is not allowed.`);
      }
      if (url.username || url.password) {
        throw new OutboundRefused(shown, 'CREDENTIALS', 'A URL must not contain credentials.');
      }
      const host = url.hostname.replace(/^\[(.*)\]$/, '$1');
      if (!host) throw new OutboundRefused(shown, 'INVALID_URL', 'The URL has no host.');

      const addresses = ipaddr.isValid(host) ? [host] : await resolve(host, shown, signal);
      if (!addresses.every((address) => isAllowed(address, allowLoopback, allowPrivate))) {
        // The address is not told: the answer must not map the network that the server stands in.
        throw new OutboundRefused(shown, 'ADDRESS', `The host ${host} is not at a public address.`);
      }
      // Written the one usual way, so that no later reader takes 010.0.0.1 or ::ffff:7f00:1 for something else.
      return { url, addresses: addresses.map((address) => ipaddr.process(address).toString()) };
    },
  };

  async function resolve(host: string, shown: string, signal: AbortSignal | undefined): Promise<string[]> {
    const late = AbortSignal.timeout(lookupTimeoutMs);
    const stop = signal ? AbortSignal.any([signal, late]) : late;
    const { promise: stopped, reject } = Promise.withResolvers<never>();
    const onStop = (): void => reject(stop.reason);
    stop.addEventListener('abort', onStop, { once: true });
    try {
      const addresses = [...(await Promise.race([lookup(host, stop), stopped]))];
      if (addresses.length === 0) throw new Error('no address');
      return addresses;
    } catch (error) {
      signal?.throwIfAborted();
      const refused = new OutboundRefused(shown, 'UNRESOLVED', `The host ${host} could not be resolved.`);
      refused.cause = error;
      throw refused;
    } finally {
      stop.removeEventListener('abort', onStop);
    }
  }
}
