import { createHash, randomBytes } from 'node:crypto';
import { z } from 'zod';
import type { OutboundFetch, OutboundInit } from '#kernel/outbound-fetch.ts';

export {
  appKey,
  createGitHubApi,
  GitHubApiFailed,
  repositoryName,
  type CommitState,
  type GitHubApi,
  type GitHubRepository,
} from './api.ts';
export { isSignature, isSigned } from './webhooks.ts';

/** GitHub did not do as it should; the message is for the log. */
export class GitHubRefused extends Error {
  override readonly name = 'GitHubRefused';
  /** Its own code, for instance `bad_verification_code`; null: it answered something else. */
  readonly code: string | null;
  constructor(message: string, code: string | null = null, options?: ErrorOptions) {
    super(message, options);
    this.code = code;
  }
}

export interface GitHubOptions {
  /** `https://github.com`, or an Enterprise server. */
  readonly url: string;
  /** `https://api.github.com`, or `https://<Enterprise server>/api/v3`. */
  readonly apiUrl: string;
  readonly clientId: string;
  readonly clientSecret: string;
  readonly fetch: OutboundFetch;
}

/** Whom GitHub vouches for, and the token that they allowed. */
export interface GitHubUser {
  /** Numeric id, in decimal: unlike the login, it never changes. */
  readonly subject: string;
  readonly name: string;
  /** The primary address, if it is verified. */
  readonly email: string | null;
  readonly token: string;
  readonly scopes: readonly string[];
}

export interface GitHub {
  /** Where to send the browser; what comes with it is for the browser that began, and secret. */
  begin(redirectUri: string): { readonly url: string; readonly state: string; readonly verifier: string };
  /** @throws {GitHubRefused}, also when the signal ends it, and what `fetch` throws */
  finish(
    of: { readonly code: string; readonly verifier: string; readonly redirectUri: string },
    signal: AbortSignal,
  ): Promise<GitHubUser>;
}

/** Reading who it is and their addresses; nothing of repositories. */
const scope = 'read:user user:email';

const Token = z.union([
  z.object({ error: z.string() }),
  z.object({ access_token: z.string().min(1).max(1000), token_type: z.string(), scope: z.string().default('') }),
]);
const User = z.object({ id: z.int().positive(), login: z.string(), name: z.string().nullish() });
const Emails = z.array(z.object({ email: z.string(), primary: z.boolean(), verified: z.boolean() }));

/**
 * GitHub's web application flow, with state and PKCE (S256).
 * @see https://docs.github.com/en/apps/oauth-apps/building-oauth-apps/authorizing-oauth-apps
 */
export function createGitHub(options: GitHubOptions): GitHub {
  const { fetch, clientId, clientSecret } = options;

  const ask = async (url: string, signal: AbortSignal, init: OutboundInit): Promise<Response> => {
    try {
      return await fetch(url, { ...init, signal });
    } catch (error) {
      if (!signal.aborted) throw error;
      throw new GitHubRefused('GitHub does not answer in time', null, { cause: error });
    }
  };
  const read = async <T>(schema: z.ZodType<T>, path: string, token: string, signal: AbortSignal): Promise<T> => {
    const answer = await ask(`${options.apiUrl}${path}`, signal, {
      headers: {
        accept: 'application/vnd.github+json',
        authorization: `Bearer ${token}`,
        'user-agent': 'switchyard',
        'x-github-api-version': '2022-11-28',
      },
    });
    return readAs(schema, answer, path);
  };

  return {
    begin(redirectUri) {
      const state = randomBytes(32).toString('base64url');
      const verifier = randomBytes(32).toString('base64url');
      const url = new URL(`${options.url}/login/oauth/authorize`);
      url.search = new URLSearchParams({
        client_id: clientId,
        redirect_uri: redirectUri,
        scope,
        state,
        code_challenge: createHash('sha256').update(verifier).digest('base64url'),
        code_challenge_method: 'S256',
      }).toString();
      return { url: url.href, state, verifier };
    },

    async finish({ code, verifier, redirectUri }, signal) {
      const answer = await ask(`${options.url}/login/oauth/access_token`, signal, {
        method: 'POST',
        headers: { accept: 'application/json', 'user-agent': 'switchyard' },
        body: new URLSearchParams({
          client_id: clientId,
          client_secret: clientSecret,
          code,
          code_verifier: verifier,
          redirect_uri: redirectUri,
        }),
      });
      const given = await readAs(Token, answer, 'the token');
      if ('error' in given) throw new GitHubRefused(`GitHub gave no token: ${given.error}`, given.error);
      const token = given.access_token;
      const user = await read(User, '/user', token, signal);
      const emails = await read(Emails, '/user/emails', token, signal);
      return {
        subject: String(user.id),
        name: user.name?.trim() || user.login,
        email: emails.find(({ primary, verified }) => primary && verified)?.email ?? null,
        token,
        scopes: given.scope.split(/[\s,]+/).filter((one) => one !== ''),
      };
    },
  };
}

async function readAs<T>(schema: z.ZodType<T>, answer: Response, what: string): Promise<T> {
  if (!answer.ok) throw new GitHubRefused(`GitHub answered ${what} with status ${answer.status}`);
  const body: unknown = await answer.json().catch((error: unknown) => {
    throw new GitHubRefused(`GitHub answered ${what} with no JSON`, null, { cause: error });
  });
  const read = schema.safeParse(body);
  if (!read.success)
    throw new GitHubRefused(`GitHub answered ${what} with something else`, null, { cause: read.error });
  return read.data;
}
