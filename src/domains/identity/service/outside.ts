import { Resolver } from 'node:dns/promises';
import { required } from '#kernel/app.ts';
import type { Logger } from '#kernel/log.ts';
import { createOutboundPolicy, type HostLookup } from '#kernel/outbound.ts';
import { createOutboundFetch, type OutboundFetchOptions } from '#kernel/outbound-fetch.ts';
import { createGitHub, type GitHub } from '../../../integrations/github/index.ts';
import { createJwtIssuers, type JwtIssuers, type TrustedIssuer } from '../../../integrations/jwt/index.ts';
import { createOidc, type Oidc } from '../../../integrations/oidc/index.ts';

/** Other systems that vouch for people. */
export interface Outside {
  readonly oidc: Oidc;
  /** Null: not configured. */
  readonly github: GitHub | null;
  readonly issuers: JwtIssuers;
  /** Issuers whose people get an account when they come for the first time. */
  readonly provisioning: ReadonlySet<string>;
  /** All TXT records of a name. Rejects when there are none, and when the signal ends it. */
  readonly resolveTxt: (name: string, signal: AbortSignal) => Promise<readonly string[]>;
  /** URL at which browsers reach this server, without a trailing slash. */
  readonly baseUrl: () => string;
}

export const Outside = required<Outside>('outside systems');

/** An issuer of the setting SWITCHYARD_JWT_ISSUERS. */
export interface ConfiguredIssuer extends TrustedIssuer {
  readonly provision: boolean;
}

export interface OutsideOptions {
  readonly log: Logger;
  readonly allowLoopback: boolean;
  readonly github: {
    readonly url: string;
    readonly apiUrl: string;
    readonly clientId: string;
    readonly clientSecret: string;
  } | null;
  readonly issuers: readonly ConfiguredIssuer[];
  readonly baseUrl: () => string;
  /** For tests: what names resolve to, and what opens connections to the addresses that were let pass. */
  readonly lookup?: HostLookup | undefined;
  readonly connector?: OutboundFetchOptions['connector'] | undefined;
  readonly resolveTxt?: Outside['resolveTxt'] | undefined;
  readonly jwksCooldownMs?: number | undefined;
  readonly discoveryCacheMs?: number | undefined;
}

const dnsTimeoutMs = 3000;

/** How long another system may take in all for one sign-in, or one look: 15 s. */
export const outsideLimit = (): AbortSignal => AbortSignal.timeout(15_000);

/** Reaches other systems over the network. */
export function connectOutside(options: OutsideOptions): Outside {
  const { allowLoopback, lookup, connector } = options;
  const resolving = lookup ? { lookup } : {};
  const connecting = connector ? { connector } : {};
  const fetch = createOutboundFetch({ policy: createOutboundPolicy({ allowLoopback, ...resolving }), ...connecting });
  // What the operator configured may stand beside this server.
  const operatorFetch = createOutboundFetch({
    policy: createOutboundPolicy({ allowLoopback, allowPrivate: true, ...resolving }),
    ...connecting,
  });
  return {
    oidc: createOidc({
      fetch,
      allowHttp: allowLoopback,
      ...(options.discoveryCacheMs === undefined ? {} : { cacheMs: options.discoveryCacheMs }),
    }),
    github: options.github && createGitHub({ ...options.github, fetch: operatorFetch }),
    issuers: createJwtIssuers({
      issuers: options.issuers,
      fetch: operatorFetch,
      log: options.log,
      ...(options.jwksCooldownMs === undefined ? {} : { cooldownMs: options.jwksCooldownMs }),
    }),
    provisioning: new Set(options.issuers.filter(({ provision }) => provision).map(({ issuer }) => issuer)),
    resolveTxt: options.resolveTxt ?? systemTxt,
    baseUrl: options.baseUrl,
  };
}

/** @param servers addresses of name servers; without them, those of the system */
export async function systemTxt(name: string, signal: AbortSignal, servers?: readonly string[]): Promise<string[]> {
  signal.throwIfAborted();
  const resolver = new Resolver({ timeout: dnsTimeoutMs, tries: 2 });
  if (servers) resolver.setServers(servers);
  // The time-out is one for each server and try.
  const cancel = () => resolver.cancel();
  signal.addEventListener('abort', cancel, { once: true });
  try {
    // A record of more than 255 bytes comes in parts.
    return (await resolver.resolveTxt(name)).map((parts) => parts.join(''));
  } finally {
    signal.removeEventListener('abort', cancel);
  }
}
