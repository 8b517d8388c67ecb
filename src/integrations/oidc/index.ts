import { AsyncLocalStorage } from 'node:async_hooks';
import {
  allowInsecureRequests,
  authorizationCodeGrant,
  AuthorizationResponseError,
  buildAuthorizationUrl,
  calculatePKCECodeChallenge,
  ClientSecretBasic,
  ClientSecretPost,
  Configuration,
  customFetch,
  discovery,
  enableNonRepudiationChecks,
  fetchUserInfo,
  None,
  randomNonce,
  randomPKCECodeVerifier,
  randomState,
  type CustomFetch,
  type ServerMetadata,
} from 'openid-client';
import { z } from 'zod';
import { Latest } from '#kernel/latest.ts';
import { OutboundRefused } from '#kernel/outbound.ts';
import { OutboundFailed, type OutboundFetch } from '#kernel/outbound-fetch.ts';

/**
 * What is wrong with a provider: its address may not be asked, it does not answer, it is none, it calls itself
 * otherwise, or it lacks what this server needs.
 */
export type ProviderProblem = 'ADDRESS_REFUSED' | 'UNREACHABLE' | 'NO_PROVIDER' | 'ISSUER_MISMATCH' | 'UNSUPPORTED';

/** The provider cannot be used. The cause is for the log. */
export class ProviderUnusable extends Error {
  override readonly name = 'ProviderUnusable';
  readonly problem: ProviderProblem;
  constructor(problem: ProviderProblem, message: string, options?: ErrorOptions) {
    super(message, options);
    this.problem = problem;
  }
}

/** The provider, or who came back from it, said something that is not to be believed. The cause is for the log. */
export class AnswerRefused extends Error {
  override readonly name = 'AnswerRefused';
  /** What the provider itself said, for instance `access_denied`; null: what it said was wrong. */
  readonly said: string | null;
  constructor(said: string | null, options?: ErrorOptions) {
    super('The answer of the provider was refused', options);
    this.said = said;
  }
}

/** How this server is known to a provider. */
export interface ProviderClient {
  readonly issuer: string;
  readonly clientId: string;
  /** Null: a public client. */
  readonly clientSecret: string | null;
}

/** What only the browser that began may bring back; keep it secret. */
export interface Authorization {
  readonly state: string;
  readonly nonce: string;
  readonly verifier: string;
}

/** Whom the provider vouches for. */
export interface IdToken {
  /** Never changes for this person at this issuer. */
  readonly subject: string;
  readonly email: string | null;
  /** Null: the provider does not say. */
  readonly emailVerified: boolean | null;
  readonly name: string | null;
}

/** Each ends when its signal does, by {@link ProviderUnusable}. */
export interface Oidc {
  /** Looks whether the provider can be used. @throws {ProviderUnusable} */
  check(client: ProviderClient, signal: AbortSignal): Promise<void>;
  /**
   * Where to send the browser.
   * @param redirectUri of this client alone: no other provider may send anybody there
   * @throws {ProviderUnusable}
   * @see https://www.rfc-editor.org/rfc/rfc9700#section-4.4.2 Mix-up defences
   */
  begin(
    client: ProviderClient,
    redirectUri: string,
    signal: AbortSignal,
  ): Promise<{ readonly url: string } & Authorization>;
  /**
   * Exchanges the code that the browser brought, and checks everything.
   * @param returned the address that the browser came back to
   * @throws {ProviderUnusable} {AnswerRefused}
   */
  finish(client: ProviderClient, returned: URL, begun: Authorization, signal: AbortSignal): Promise<IdToken>;
}

export interface OidcOptions {
  readonly fetch: OutboundFetch;
  /** Providers without TLS, for development; the policy behind `fetch` says where. */
  readonly allowHttp: boolean;
  /** How long a discovery document is believed. */
  readonly cacheMs?: number;
}

/** `sub` is at most 255 ASCII characters. @see https://openid.net/specs/openid-connect-core-1_0.html#IDToken */
const Claims = z.object({
  sub: z.string().min(1).max(255),
  email: z.string().max(320).nullish().catch(null),
  // Some write the text "true".
  email_verified: z
    .union([z.boolean(), z.enum(['true', 'false'])])
    .nullish()
    .catch(false),
  name: z.string().nullish().catch(null),
});

/** Providers whose discovery documents and keys are remembered. */
const maxKnown = 1000;

/**
 * OpenID Connect, as a relying party with the authorization code flow: PKCE (S256), state and nonce always, the issuer
 * of the answer (RFC 9207) where the provider gives it, and the signature of each ID token.
 * @see https://openid.net/specs/openid-connect-core-1_0.html
 * @see https://www.rfc-editor.org/rfc/rfc9700 OAuth 2.0 security best current practice
 */
export function createOidc({ fetch, allowHttp, cacheMs = 600_000 }: OidcOptions): Oidc {
  const known = new Latest<string, { readonly configuration: Configuration; readonly until: number }>(maxKnown);
  // The library takes a signal for a configuration, which several requests share; this one is of the call that asks.
  const calls = new AsyncLocalStorage<AbortSignal>();
  const ask: CustomFetch = (url, { method, headers, body, signal }) => {
    const signals = [signal, calls.getStore()].filter((one) => one !== undefined);
    return fetch(url, {
      method,
      headers,
      signal: AbortSignal.any(signals),
      ...(body ? { body: body as string | URLSearchParams } : {}),
    });
  };
  const within = <T>(signal: AbortSignal, call: () => Promise<T>): Promise<T> =>
    calls.run(signal, async () => {
      try {
        return await call();
      } catch (error) {
        if (!signal.aborted) throw error;
        throw new ProviderUnusable('UNREACHABLE', 'The provider does not answer in time.', { cause: error });
      }
    });

  const providerOf = async (client: ProviderClient, fresh = false): Promise<Configuration> => {
    const key = JSON.stringify([client.issuer, client.clientId, client.clientSecret]);
    const found = known.get(key);
    if (!fresh && found && found.until > Date.now()) return found.configuration;
    const configuration = await discover(client, ask, allowHttp);
    known.set(key, { configuration, until: Date.now() + cacheMs });
    return configuration;
  };

  return {
    check: (client, signal) => within(signal, async () => void (await providerOf(client, true))),

    begin: (client, redirectUri, signal) =>
      within(signal, async () => {
        const configuration = await providerOf(client);
        const begun = { state: randomState(), nonce: randomNonce(), verifier: randomPKCECodeVerifier() };
        const url = buildAuthorizationUrl(configuration, {
          redirect_uri: redirectUri,
          scope: 'openid email profile',
          state: begun.state,
          nonce: begun.nonce,
          code_challenge: await calculatePKCECodeChallenge(begun.verifier),
          code_challenge_method: 'S256',
        });
        return { url: url.href, ...begun };
      }),

    finish: (client, returned, { state, nonce, verifier }, signal) =>
      within(signal, async () => {
        const configuration = await providerOf(client);
        try {
          const answer = await authorizationCodeGrant(configuration, returned, {
            expectedState: state,
            expectedNonce: nonce,
            pkceCodeVerifier: verifier,
            idTokenExpected: true,
          });
          const given = Claims.parse(answer.claims());
          // A provider that follows the specification to the letter tells of the person at its own address only.
          const elsewhere = given.email == null && configuration.serverMetadata().userinfo_endpoint !== undefined;
          const claims = elsewhere
            ? Claims.parse(await fetchUserInfo(configuration, answer.access_token, given.sub))
            : given;
          return {
            subject: claims.sub,
            email: claims.email ?? null,
            emailVerified: claims.email_verified == null ? null : String(claims.email_verified) === 'true',
            name: claims.name?.trim() || null,
          };
        } catch (error) {
          const away = causeOf(error, OutboundFailed) ?? causeOf(error, OutboundRefused);
          if (away) throw unusable(away);
          throw new AnswerRefused(error instanceof AuthorizationResponseError ? error.error : null, { cause: error });
        }
      }),
  };
}

async function discover(client: ProviderClient, ask: CustomFetch, allowHttp: boolean): Promise<Configuration> {
  const url = URL.parse(client.issuer);
  if (!url || url.search || url.hash) throw new ProviderUnusable('NO_PROVIDER', 'The issuer is no URL of a provider.');
  if (url.protocol !== 'https:' && !(allowHttp && url.protocol === 'http:')) {
    throw new ProviderUnusable('ADDRESS_REFUSED', 'The issuer must be an https:// URL.');
  }
  let metadata: ServerMetadata;
  try {
    const found = await discovery(url, client.clientId, undefined, None(), {
      [customFetch]: ask,
      ...(allowHttp ? { execute: [allowInsecureRequests] } : {}),
    });
    metadata = found.serverMetadata();
  } catch (error) {
    throw unusable(error);
  }
  // The library compares them as URLs, of which several can be the same.
  if (metadata.issuer !== client.issuer) {
    throw new ProviderUnusable(
      'ISSUER_MISMATCH',
      'The provider calls itself otherwise than the issuer that was given.',
    );
  }
  lookAt(metadata, allowHttp);
  const configuration = new Configuration(metadata, client.clientId, undefined, authenticationOf(client, metadata));
  configuration[customFetch] = ask;
  if (allowHttp) allowInsecureRequests(configuration);
  enableNonRepudiationChecks(configuration);
  return configuration;
}

/** @throws {ProviderUnusable} unless the provider has what this server needs */
function lookAt(metadata: ServerMetadata, allowHttp: boolean): void {
  const { authorization_endpoint: authorization, token_endpoint: token, jwks_uri: jwks } = metadata;
  for (const endpoint of [authorization, token, jwks]) {
    const protocol = endpoint === undefined ? undefined : URL.parse(endpoint)?.protocol;
    if (protocol !== 'https:' && !(allowHttp && protocol === 'http:')) {
      throw new ProviderUnusable('UNSUPPORTED', 'The provider lacks an https:// address that this server needs.');
    }
  }
  const has = (list: unknown, wanted: string): boolean => !Array.isArray(list) || list.includes(wanted);
  if (!has(metadata.response_types_supported, 'code')) {
    throw new ProviderUnusable('UNSUPPORTED', 'The provider does not offer the authorization code flow.');
  }
  // Not every provider that does it says so.
  if (!has(metadata.code_challenge_methods_supported, 'S256')) {
    throw new ProviderUnusable('UNSUPPORTED', 'The provider does not offer PKCE with S256.');
  }
}

function authenticationOf({ clientSecret }: ProviderClient, metadata: ServerMetadata) {
  if (clientSecret === null) return None();
  const offered = metadata.token_endpoint_auth_methods_supported ?? ['client_secret_basic'];
  return offered.includes('client_secret_basic') ? ClientSecretBasic(clientSecret) : ClientSecretPost(clientSecret);
}

function unusable(error: unknown): ProviderUnusable {
  if (causeOf(error, OutboundRefused)) {
    return new ProviderUnusable('ADDRESS_REFUSED', 'This server does not talk to that address.', { cause: error });
  }
  if (causeOf(error, OutboundFailed)) {
    return new ProviderUnusable('UNREACHABLE', 'The provider does not answer.', { cause: error });
  }
  const differs = /issuer/i.test(codesOf(error));
  return differs
    ? new ProviderUnusable('ISSUER_MISMATCH', 'The provider calls itself otherwise than the issuer that was given.', {
        cause: error,
      })
    : new ProviderUnusable('NO_PROVIDER', 'There is no usable discovery document at the issuer.', { cause: error });
}

/** The error, or what caused it, of this class. */
function causeOf<T extends Error>(error: unknown, type: new (...args: never[]) => T): T | null {
  for (let at: unknown = error, depth = 0; at instanceof Error && depth < 5; at = at.cause, depth++) {
    if (at instanceof type) return at;
  }
  return null;
}

/** Messages and codes of an error and of what caused it. */
function codesOf(error: unknown): string {
  const said: string[] = [];
  for (let at: unknown = error, depth = 0; at instanceof Error && depth < 5; at = at.cause, depth++) {
    said.push(at.message);
  }
  return said.join(' ');
}
