import { createPrivateKey, type KeyObject } from 'node:crypto';
import { request as octokit } from '@octokit/request';
import { SignJWT } from 'jose';
import { z } from 'zod';
import { OutboundFailed, type OutboundFetch } from '#kernel/outbound-fetch.ts';

/** GitHub's REST API did not do what was asked; the message has no secrets. */
export class GitHubApiFailed extends Error {
  override readonly name = 'GitHubApiFailed';
  /** HTTP status; null: it gave no answer. */
  readonly status: number | null;
  constructor(what: string, status: number | null, options?: ErrorOptions) {
    super(status === null ? `GitHub gave no answer to ${what}.` : `GitHub answered ${what} with ${status}.`, options);
    this.status = status;
  }
}

/** A repository as GitHub tells of it. */
export interface GitHubRepository {
  readonly id: number;
  /** `owner/name`. */
  readonly fullName: string;
  readonly cloneUrl: string;
  readonly defaultBranch: string;
  readonly isPrivate: boolean;
  readonly isFork: boolean;
  /** Whether the token may push to it. */
  readonly mayPush: boolean;
}

export type CommitState = 'pending' | 'success' | 'failure' | 'error';

/** What this server asks of GitHub's REST API. Every call rejects with {@link GitHubApiFailed}, or the signal's reason. */
export interface GitHubApi {
  /** Null: there is none that the token reaches. */
  repository(token: string, fullName: string, signal: AbortSignal): Promise<GitHubRepository | null>;
  /** Those that the token's person owns or works on, by name, `pageSize` a page, from page 1 on. */
  repositories(
    token: string,
    page: { readonly page: number; readonly pageSize: number },
    signal: AbortSignal,
  ): Promise<readonly GitHubRepository[]>;
  /** The installation of this server's App that reaches a repository; null: none does, or there is no App. */
  installationOf(fullName: string, signal: AbortSignal): Promise<number | null>;
  /** A token of an hour, of that installation, for one repository. */
  installationToken(
    of: { readonly installationId: number; readonly repositoryId: number },
    permissions: Readonly<Record<string, 'read' | 'write'>>,
    signal: AbortSignal,
  ): Promise<string>;
  setStatus(
    token: string,
    status: {
      readonly fullName: string;
      readonly commitSha: string;
      readonly state: CommitState;
      readonly targetUrl: string;
      readonly description: string;
      readonly context: string;
    },
    signal: AbortSignal,
  ): Promise<void>;
}

export interface GitHubApiOptions {
  /** `https://api.github.com`, or `https://<Enterprise server>/api/v3`. */
  readonly apiUrl: string;
  readonly fetch: OutboundFetch;
  /** The GitHub App of this server; null: it has none. The key is a PEM text. */
  readonly app: { readonly id: string; readonly privateKey: string } | null;
}

const Repository = z
  .object({
    id: z.int().positive(),
    full_name: z.string().max(200),
    clone_url: z.string().max(1024),
    default_branch: z.string().max(255).nullish(),
    private: z.boolean(),
    fork: z.boolean(),
    permissions: z.object({ push: z.boolean().optional() }).optional(),
  })
  .transform((one): GitHubRepository => ({
    id: one.id,
    fullName: one.full_name,
    cloneUrl: one.clone_url,
    defaultBranch: one.default_branch ?? 'main',
    isPrivate: one.private,
    isFork: one.fork,
    mayPush: one.permissions?.push ?? false,
  }));
const Installation = z.object({ id: z.int().positive() });
const Token = z.object({ token: z.string().min(1).max(1000) });

const nameParts = /^([A-Za-z0-9](?:[A-Za-z0-9-]{0,99}))\/([A-Za-z0-9._-]{1,100})$/;

/** Owner and name of `owner/name`; null: it is no such name. */
export function repositoryName(fullName: string): { readonly owner: string; readonly repo: string } | null {
  const [, owner, repo] = nameParts.exec(fullName) ?? [];
  return owner && repo && repo !== '.' && repo !== '..' ? { owner, repo } : null;
}

/** @throws TypeError when the key is no private RSA key */
export function appKey(pem: string): KeyObject {
  const key = createPrivateKey(pem);
  if (key.asymmetricKeyType !== 'rsa') throw new TypeError('The key of a GitHub App is an RSA key.');
  return key;
}

/**
 * GitHub's REST API, with the least of it that is needed.
 * @see https://docs.github.com/en/rest
 */
export function createGitHubApi(options: GitHubApiOptions): GitHubApi {
  const key = options.app && appKey(options.app.privateKey);

  const ask = async <T>(
    what: string,
    schema: z.ZodType<T>,
    call: {
      readonly method: 'GET' | 'POST';
      readonly url: string;
      readonly token: string;
      readonly signal: AbortSignal;
    },
    parameters: Record<string, unknown>,
  ): Promise<T> => {
    const { method, url, token, signal } = call;
    try {
      const { data } = await octokit({
        ...parameters,
        method,
        url,
        baseUrl: options.apiUrl,
        headers: {
          authorization: `Bearer ${token}`,
          'user-agent': 'switchyard',
          'x-github-api-version': '2022-11-28',
        },
        request: { fetch: options.fetch, signal },
      });
      return schema.parse(data);
    } catch (error) {
      signal.throwIfAborted();
      throw new GitHubApiFailed(what, statusOf(error), { cause: error instanceof OutboundFailed ? error : undefined });
    }
  };
  const orNull = async <T>(work: Promise<T>): Promise<T | null> =>
    work.catch((error: unknown) => {
      if (error instanceof GitHubApiFailed && error.status === 404) return null;
      throw error;
    });

  /** @see https://docs.github.com/en/apps/creating-github-apps/authenticating-with-a-github-app/generating-a-json-web-token-jwt-for-a-github-app */
  const appToken = async (): Promise<string> => {
    if (!options.app || !key) throw new GitHubApiFailed('a question of the App, which is not configured', null);
    const now = Math.floor(Date.now() / 1000);
    return new SignJWT()
      .setProtectedHeader({ alg: 'RS256' })
      .setIssuer(options.app.id)
      .setIssuedAt(now - 60) // its clock may be behind
      .setExpirationTime(now + 540)
      .sign(key);
  };
  const named = (fullName: string) => {
    const name = repositoryName(fullName);
    if (!name) throw new TypeError(`${fullName} is no name of a repository`);
    return name;
  };

  return {
    repository: (token, fullName, signal) =>
      orNull(
        ask(
          'a repository',
          Repository,
          { method: 'GET', url: '/repos/{owner}/{repo}', token, signal },
          named(fullName),
        ),
      ),
    repositories: (token, { page, pageSize }, signal) =>
      ask(
        'the list of repositories',
        z.array(Repository),
        { method: 'GET', url: '/user/repos', token, signal },
        { sort: 'full_name', page, per_page: pageSize },
      ),
    async installationOf(fullName, signal) {
      if (!options.app) return null;
      const token = await appToken();
      const url = '/repos/{owner}/{repo}/installation';
      const found = await orNull(
        ask('an installation', Installation, { method: 'GET', url, token, signal }, named(fullName)),
      );
      return found?.id ?? null;
    },
    async installationToken({ installationId, repositoryId }, permissions, signal) {
      const url = '/app/installations/{installation_id}/access_tokens';
      const { token } = await ask(
        'a token of an installation',
        Token,
        { method: 'POST', url, token: await appToken(), signal },
        { installation_id: installationId, repository_ids: [repositoryId], permissions },
      );
      return token;
    },
    async setStatus(token, { fullName, commitSha, state, targetUrl, description, context }, signal) {
      await ask(
        'a commit status',
        z.unknown(),
        { method: 'POST', url: '/repos/{owner}/{repo}/statuses/{sha}', token, signal },
        { ...named(fullName), sha: commitSha, state, target_url: targetUrl, description, context },
      );
    },
  };
}

function statusOf(error: unknown): number | null {
  // Octokit reports what had no answer as 500, with the cause.
  if (typeof error !== 'object' || error === null || !('status' in error)) return null;
  const answered = 'response' in error && error.response !== undefined;
  return answered && typeof error.status === 'number' ? error.status : null;
}
