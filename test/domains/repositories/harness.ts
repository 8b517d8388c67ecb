import { chmod, mkdir, rm } from 'node:fs/promises';
import path from 'node:path';
import { git, startGitHttp } from '../../support/git-http.ts';
import { startGitHub, type GitHubEdge } from '../../support/github.ts';
import { testFolder } from '../../support/server.ts';
import { plain, repository, type Repository } from '../deployments/harness.ts';

/** What reaches the repository, at the API and by Git. */
export const token = 'ghp_ofTheShopAndOfNothingElse';

/** A GitHub of a test's own, with the private repository octo/shop. */
export interface Shop {
  readonly github: GitHubEdge;
  readonly source: Repository;
  /** Pushes to where GitHub has it: a branch, or `<commit>:<ref>`, whatever is there. */
  push(what: string): Promise<void>;
  close(): Promise<void>;
}

/**
 * @param program what its first commit serves, as server.js
 * @param seed of GitHub, beside the repository: tokens, repositories, apps
 */
export async function startShop(
  program: string,
  seed: {
    readonly tokens?: readonly string[];
    readonly repos?: readonly object[];
    readonly apps?: readonly object[];
  } = {},
): Promise<Shop> {
  const folder = await testFolder();
  const work = path.join(folder, 'work');
  await mkdir(work);
  const source = await repository(work, 'shop');
  const bare = path.join(folder, 'git', 'octo', 'shop.git');
  await mkdir(path.dirname(bare), { recursive: true });
  await source.commit({ ...plain, 'server.js': program });
  await git(folder, 'clone', '--quiet', '--bare', path.join(work, 'shop'), bare);
  await chmod(path.join(folder, 'git'), 0o755);
  const gitHttp = await startGitHttp(path.join(folder, 'git'), {
    credentials: { username: 'x-access-token', password: token },
  });
  const github = await startGitHub(gitHttp.url, {
    tokens: Object.fromEntries(
      [token, ...(seed.tokens ?? [])].map((one) => [one, { login: 'octo', scopes: ['repo'] }]),
    ),
    github: {
      users: [{ login: 'octo', name: 'Octo', email: 'octo@github.example' }],
      repos: [{ owner: 'octo', name: 'shop', private: true }, ...(seed.repos ?? [])],
      ...(seed.apps ? { apps: seed.apps } : {}),
    },
  });
  return {
    github,
    source,
    async push(what) {
      await git(path.join(work, 'shop'), 'push', '--quiet', '--force', bare, what);
    },
    async close() {
      await github.close();
      await gitHttp.close();
      await rm(folder, { recursive: true, force: true });
    },
  };
}
