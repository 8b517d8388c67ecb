import type { buildConnector } from 'undici';
import { withoutSecrets, type OutboundPolicy } from './outbound.ts';

/** Why there is no answer: nobody answered in time or at all, it leads elsewhere, or it is too long. */
export type OutboundFailure = 'NETWORK' | 'TIMEOUT' | 'REDIRECT' | 'TOO_LARGE';

/** A server that this one asked gave no answer that can be used. Trying again later may help. */
export class OutboundFailed extends Error {
  override readonly name = 'OutboundFailed';
  readonly reason: OutboundFailure;
  constructor(url: URL, reason: OutboundFailure, options?: ErrorOptions) {
    super(`${withoutSecrets(url)} gave no usable answer: ${reason}`, options);
    this.reason = reason;
  }
}

export interface OutboundInit {
  readonly method?: string;
  readonly headers?: ConstructorParameters<typeof Headers>[0];
  readonly body?: string | Uint8Array | URLSearchParams | null;
  readonly signal?: AbortSignal | null | undefined;
}

/** `fetch` for addresses that a user or another server gave. */
export type OutboundFetch = (url: URL | string, init?: OutboundInit) => Promise<Response>;

export interface OutboundFetchOptions {
  readonly policy: OutboundPolicy;
  /** For everything: the look-up, the connection, and the whole answer. */
  readonly timeoutMs?: number;
  /** Longest answer, in bytes as they arrive: nothing is unpacked. */
  readonly maxBytes?: number;
  /** Opens the connection to an address that the policy has let pass; for tests. */
  readonly connector?: buildConnector.connector;
}

/** Statuses whose answers have no body, as `Response` wants it. */
const withoutBody = new Set([204, 205, 304]);

/**
 * Makes a `fetch` that talks only to addresses that the policy has checked: the name is resolved once, and the
 * connection goes to what came out. Redirects are refused; none of what is asked for needs them. An answer is read
 * whole before it is given.
 *
 * The function rejects with {@link OutboundRefused} for what the policy refuses, with {@link OutboundFailed}, or with the
 * reason of the signal.
 */
export function createOutboundFetch(options: OutboundFetchOptions): OutboundFetch {
  const { policy, timeoutMs = 10_000, maxBytes = 1_048_576 } = options;
  let { connector } = options;

  return async (given, init = {}) => {
    const late = AbortSignal.timeout(timeoutMs);
    const signal = init.signal ? AbortSignal.any([init.signal, late]) : late;
    const { url, addresses } = await policy.check(given, { signal }).catch((error: unknown) => {
      if (late.aborted && URL.canParse(given)) throw new OutboundFailed(new URL(given), 'TIMEOUT', { cause: error });
      throw error;
    });
    // Only here: most servers ask nobody outside, and it takes 10 MB.
    const { Agent, buildConnector, request } = await import('undici');
    connector ??= buildConnector({ timeout: timeoutMs, allowH2: false });
    // One for each request: a connection is never used for what was not checked with it.
    const agent = new Agent({ connect: toAddresses(connector, addresses, signal) });
    try {
      const { body } = init;
      const headers = new Headers(init.headers);
      if (body instanceof URLSearchParams && !headers.has('content-type')) {
        headers.set('content-type', 'application/x-www-form-urlencoded;charset=UTF-8');
      }
      const answer = await request(url, {
        dispatcher: agent,
        signal,
        method: (init.method ?? 'GET') as 'GET',
        headers: Object.fromEntries(headers),
        body: body instanceof URLSearchParams ? body.toString() : (body ?? null),
      });
      if (answer.statusCode >= 300 && answer.statusCode < 400 && answer.statusCode !== 304) {
        throw new OutboundFailed(url, 'REDIRECT');
      }
      const chunks: Buffer[] = [];
      let bytes = 0;
      for await (const chunk of answer.body as AsyncIterable<Buffer>) {
        bytes += chunk.length;
        if (bytes > maxBytes) throw new OutboundFailed(url, 'TOO_LARGE');
        chunks.push(chunk);
      }
      return new Response(withoutBody.has(answer.statusCode) ? null : Buffer.concat(chunks), {
        status: answer.statusCode,
        headers: Object.entries(answer.headers).flatMap(([name, value]) =>
          [value ?? []].flat().map((one): [string, string] => [name, one]),
        ),
      });
    } catch (error) {
      if (error instanceof OutboundFailed) throw error;
      init.signal?.throwIfAborted();
      throw new OutboundFailed(url, late.aborted ? 'TIMEOUT' : 'NETWORK', { cause: error });
    } finally {
      await agent.destroy();
    }
  };
}

/** Connects to the addresses, in their order, whatever name is asked for; TLS is still checked for the name. */
function toAddresses(
  connector: buildConnector.connector,
  addresses: readonly string[],
  signal: AbortSignal,
): buildConnector.connector {
  return (options, callback) => {
    let waiting = true;
    const done: buildConnector.Callback = (...result) => {
      if (waiting) callback(...result);
      else result[1]?.destroy();
      waiting = false;
    };
    // What asks for the connection hears nothing of the signal until there is one.
    signal.addEventListener('abort', () => waiting && done(asError(signal.reason), null), { once: true });
    const attempt = (index: number): void => {
      const hostname = addresses[index] as string;
      const servername = options.servername || options.hostname.replace(/^\[(.*)\]$/, '$1');
      connector({ ...options, hostname, servername }, (...result) => {
        if (result[0] && waiting && index + 1 < addresses.length) attempt(index + 1);
        else done(...result);
      });
    };
    attempt(0);
  };
}

const asError = (reason: unknown): Error => (reason instanceof Error ? reason : new Error(String(reason)));
