import { execFile } from 'node:child_process';
import { chmod, chown, lstat, mkdir, mkdtemp, readdir, readFile, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, onTestFinished, test, vi } from 'vitest';
import { createLogger } from '#kernel/log.ts';
import { createOutboundPolicy } from '#kernel/outbound.ts';
import {
  createGit,
  GitRefused,
  RefNotFound,
  RepositoryUnreachable,
  validateRef,
  validateRepositoryUrl,
  type FetchCommitOptions,
  type GitOptions,
} from '../../../src/integrations/git/index.ts';
import { isAlive, type ProcessIdentity } from '../../../src/kernel/processes/children.ts';
import { git, startGitHttp, type GitHttp } from '../../support/git-http.ts';

vi.setConfig({ testTimeout: 20_000, hookTimeout: 20_000 });
// What root makes here, an application's user reads.
process.umask(0o022);

const run = promisify(execFile);
const log = createLogger('silent');
const user = process.getuid?.() === 0 ? { uid: 61_999, gid: 61_999 } : {};

let folder: string;
let remote: GitHttp;
/** Commit ids, oldest first. */
let commits: string[];

async function folderOf(name: string): Promise<string> {
  const path = await mkdtemp(join(folder, name));
  if (user.uid !== undefined) await chown(path, user.uid, user.gid);
  return path;
}

const makeGit = async (options: Partial<GitOptions> = {}) =>
  await createGit({
    path: '/usr/local/bin:/usr/bin:/bin',
    protocols: ['https', 'http', 'file'],
    outbound: createOutboundPolicy({ allowLoopback: true }),
    homeDir: join(folder, 'git-home'),
    log,
    ...options,
  });

async function fetchWith(
  request: Partial<FetchCommitOptions> & { repositoryUrl: string },
  options: Partial<GitOptions> = {},
) {
  const client = await makeGit(options);
  const intoDir = request.intoDir ?? (await folderOf('into-'));
  const output: string[] = [];
  const children: ProcessIdentity[] = [];
  const base = { ref: 'main', intoDir, ...user, signal: AbortSignal.timeout(20_000), timeoutMs: 20_000 };
  const commit = await client.fetchCommit({
    ...base,
    onOutput: (line) => output.push(line),
    beforeStart: (child) => Promise.resolve(void children.push(child)),
    ...request,
  });
  return { ...commit, intoDir, output, children };
}

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'switchyard-git-'));
  await chmod(folder, 0o711);
  const work = join(folder, 'work');
  await mkdir(work);
  await git(work, 'init', '--quiet', '-b', 'main');
  await writeFile(join(work, 'server.js'), 'one');
  await git(work, 'add', '.');
  await git(work, 'commit', '-qm', 'First\n\nWith a body');
  await writeFile(join(work, 'server.js'), 'two');
  await git(work, 'commit', '-qam', `Second ${'x'.repeat(300)}`);
  await git(work, 'branch', 'feature/ünïcode');
  // All that a hostile repository can bring.
  await git(work, 'checkout', '-qb', 'hostile');
  await mkdir(join(work, 'a/b/c'), { recursive: true });
  const links = {
    absolute: '/etc/passwd', above: '../../etc/passwd', 'a/b/c/root': '../../..', through: 'a/b/c/root/../etc/passwd',
    chain: 'absolute', loop: 'loop', inside: 'server.js', 'a/up': '../server.js', dangling: 'not/there',
    'n\nl': '/etc/passwd', 'ü': '/etc/passwd', long: `${'x/'.repeat(2_000)}../../etc`,
  }; // prettier-ignore
  for (const [path, target] of Object.entries(links)) await symlink(target, join(work, path));
  await mkdir(join(work, 'hooks'));
  for (const hook of ['hooks/post-checkout', 'hooks/post-index-change']) {
    await writeFile(join(work, hook), `#!/bin/sh\ntouch '${folder}/hook-ran'\n`, { mode: 0o755 });
  }
  await writeFile(join(work, '.gitmodules'), '[submodule "m"]\n\tpath = m\n\turl = http://127.0.0.1:1/m.git\n');
  await writeFile(join(work, '.gitattributes'), '* filter=evil\n');
  await writeFile(join(work, '.gitconfig'), '[core]\n\thooksPath = hooks\n');
  await git(work, 'add', '.');
  const [first = ''] = (await git(work, 'rev-list', '--reverse', 'main')).split('\n');
  await git(work, 'update-index', '--add', '--cacheinfo', `160000,${first},m`);
  await git(work, 'commit', '-qm', '\u001b[31mHostile\u0007');
  await git(work, 'checkout', '-q', 'main');
  await mkdir(join(folder, 'remotes'));
  await git(folder, 'clone', '--quiet', '--bare', work, 'remotes/app.git');
  commits = (await git(work, 'rev-list', '--reverse', 'main')).split('\n');
  remote = await startGitHttp(join(folder, 'remotes'));
});

afterAll(async () => {
  await remote.close();
  await rm(folder, { recursive: true, force: true });
});

describe('fetchCommit', () => {
  test('takes the head of a branch over HTTP, without its history and without .git', async () => {
    const found = await fetchWith({ repositoryUrl: `${remote.url}/app.git` });
    expect(found.commitSha).toBe(commits[1]);
    expect(found.commitSubject).toHaveLength(200);
    expect(await readdir(found.intoDir)).toEqual(['server.js']);
    expect(await readFile(join(found.intoDir, 'server.js'), 'utf8')).toBe('two');
    expect((await lstat(join(found.intoDir, 'server.js'))).uid).toBe(user.uid ?? process.getuid?.());
    expect(found.children.length).toBeGreaterThan(3);
    for (const child of found.children) expect(await isAlive(child)).toBe(false);
  });

  test('takes an exact commit, over HTTP and from a folder', async () => {
    for (const repositoryUrl of [`${remote.url}/app.git`, `file://${folder}/remotes/app.git`]) {
      const found = await fetchWith({ repositoryUrl, ref: commits[0]?.toUpperCase() ?? '' });
      expect(found).toMatchObject({ commitSha: commits[0], commitSubject: 'First' });
      expect(await readFile(join(found.intoDir, 'server.js'), 'utf8')).toBe('one');
    }
  });

  test('takes a pull request at exactly the commit that was asked for', async () => {
    const [first = '', second = ''] = commits;
    await git(join(folder, 'remotes/app.git'), 'update-ref', 'refs/pull/7/head', first);
    const of = { repositoryUrl: `${remote.url}/app.git`, pullRequest: 7 };
    expect(await fetchWith({ ...of, ref: first })).toMatchObject({ commitSha: first, commitSubject: 'First' });
    // The repository has that one, too, but the pull request is not there.
    await expect(fetchWith({ ...of, ref: second })).rejects.toMatchObject({ code: 'PULL_REQUEST_MOVED' });
    await expect(fetchWith({ ...of, ref: first, pullRequest: 8 })).rejects.toMatchObject({ code: 'REF_NOT_FOUND' });
    await expect(fetchWith({ ...of, ref: 'main' })).rejects.toMatchObject({ code: 'GIT_REFUSED' });
    for (const pullRequest of [0, -1, 1.5, NaN])
      await expect(fetchWith({ ...of, ref: first, pullRequest })).rejects.toMatchObject({ code: 'GIT_REFUSED' });
  });

  test('takes a branch with a slash and other letters', async () => {
    const found = await fetchWith({ repositoryUrl: `${remote.url}/app.git`, ref: 'feature/ünïcode' });
    expect(found.commitSha).toBe(commits[1]);
  });

  test('holds git to the address that was checked', async () => {
    const asked: string[] = [];
    const outbound = createOutboundPolicy({
      allowLoopback: true,
      lookup: (host) => Promise.resolve((asked.push(host), ['127.0.0.1'])),
    });
    const found = await fetchWith(
      { repositoryUrl: `http://no-such-host.invalid:${remote.port}/app.git` },
      { outbound },
    );
    expect(found.commitSha).toBe(commits[1]);
    expect(asked).toEqual(['no-such-host.invalid']);
  });

  test('sends credentials to the remote and nowhere else', async () => {
    const credentials = { username: 'x-access-token', password: 'tok123' };
    const closed = await startGitHttp(join(folder, 'remotes'), { credentials });
    onTestFinished(() => closed.close());
    const repositoryUrl = `${closed.url}/app.git`;
    expect(await fetchWith({ repositoryUrl, credentials })).toMatchObject({ commitSha: commits[1] });
    await expect(fetchWith({ repositoryUrl })).rejects.toThrow(RepositoryUnreachable);
  });

  test('leaves out what leads out of the tree, and runs nothing of the repository', async () => {
    const found = await fetchWith({ repositoryUrl: `${remote.url}/app.git`, ref: 'hostile' });
    const files = await readdir(found.intoDir, { recursive: true });
    expect(files).toEqual(
      expect.arrayContaining(['inside', 'dangling', 'a/up', 'a/b/c/root', '.gitmodules', 'server.js']),
    );
    for (const name of ['absolute', 'above', 'through', 'chain', 'loop', 'n\nl', 'ü', 'long'])
      expect(files).not.toContain(name);
    expect(files).not.toContain('.git');
    expect(found.output.filter((line) => line.startsWith('Left out'))).toHaveLength(8);
    expect(found.output).toContain('Submodules are not fetched (1 in this commit).');
    expect(found.commitSubject).toBe('Hostile');
    expect(await readdir(folder)).not.toContain('hook-ran');
    expect(remote.requests.every((path) => path.startsWith('/app.git'))).toBe(true);
  });

  test('tells a missing branch, a missing commit and a missing repository apart', async () => {
    const repositoryUrl = `${remote.url}/app.git`;
    await expect(fetchWith({ repositoryUrl, ref: 'nope' })).rejects.toThrow(RefNotFound);
    await expect(fetchWith({ repositoryUrl, ref: 'f'.repeat(40) })).rejects.toThrow(RefNotFound);
    await expect(fetchWith({ repositoryUrl: `${remote.url}/none.git` })).rejects.toThrow(RepositoryUnreachable);
    await expect(fetchWith({ repositoryUrl: `file://${folder}/none.git` })).rejects.toThrow(RepositoryUnreachable);
    await expect(fetchWith({ repositoryUrl: 'http://127.0.0.1:1/app.git' })).rejects.toThrow(RepositoryUnreachable);
  });

  test('does not take a blob for a commit', async () => {
    const blob = await git(join(folder, 'work'), 'rev-parse', 'main:server.js');
    await expect(fetchWith({ repositoryUrl: `${remote.url}/app.git`, ref: blob })).rejects.toThrow(RefNotFound);
  });

  test('refuses protocols, private addresses and redirects', async () => {
    const file = { repositoryUrl: `file://${folder}/remotes/app.git` };
    await expect(fetchWith(file, { protocols: ['https', 'http'] })).rejects.toMatchObject({
      code: 'GIT_REFUSED',
      reason: 'URL',
    });
    const outbound = createOutboundPolicy({ allowLoopback: false });
    const before = remote.requests.length;
    await expect(fetchWith({ repositoryUrl: `${remote.url}/app.git` }, { outbound })).rejects.toMatchObject({
      code: 'GIT_REFUSED',
      reason: 'ADDRESS',
    });
    expect(remote.requests).toHaveLength(before);
    await expect(fetchWith({ repositoryUrl: `${remote.url}/moved/app.git` })).rejects.toThrow(RepositoryUnreachable);
    expect(remote.requests.slice(before).every((path) => path.startsWith('/moved/'))).toBe(true);
    remote.requests.splice(before);
  });

  test('refuses a repository with a bad object', async () => {
    const work = join(folder, 'work');
    await git(work, 'checkout', '-q', '--detach', 'main');
    // The address would be an option to a git that fetches submodules.
    await writeFile(join(work, '.gitmodules'), '[submodule "m"]\n\tpath = m\n\turl = --upload-pack=id\n');
    await git(work, 'add', '.gitmodules');
    const tree = await git(work, 'write-tree');
    const bad = await git(work, 'commit-tree', '-m', 'bad', tree);
    await git(work, 'push', '-q', join(folder, 'remotes/app.git'), `${bad}:refs/heads/bad`);
    const fetching = fetchWith({ repositoryUrl: `${remote.url}/app.git`, ref: 'bad' });
    await expect(fetching).rejects.toMatchObject({ code: 'GIT_REFUSED', reason: 'CONTENT' });
  });

  test('goes by SSH to the checked address, with known hosts and no configuration of a user', async () => {
    const bin = await mkdtemp(join(folder, 'bin-'));
    await chmod(bin, 0o755);
    const said = join(await folderOf('said-'), 'ssh');
    // Not a server: it tells how it was called, and does what the other side would do.
    const script = `#!/bin/sh\nprintf '%s\\n' "$@" >> '${said}'\nfor last; do :; done\nexec /bin/sh -c "$last"\n`;
    await writeFile(join(bin, 'ssh'), script, { mode: 0o755 });
    const outbound = createOutboundPolicy({ allowLoopback: false, lookup: () => Promise.resolve(['93.184.215.14']) });
    const repositoryUrl = `ssh://git@example.com${folder}/remotes/app.git`;
    const found = await fetchWith({ repositoryUrl }, { outbound, protocols: ['ssh'], path: `${bin}:/usr/bin:/bin` });
    expect(found.commitSha).toBe(commits[1]);
    const words = (await readFile(said, 'utf8')).split('\n');
    expect(words).toEqual(expect.arrayContaining(['-F', '/dev/null', 'BatchMode=yes', 'HostName=93.184.215.14']));
    expect(words).toEqual(
      expect.arrayContaining(['HostKeyAlias=example.com', 'StrictHostKeyChecking=yes', 'git@example.com']),
    );
    // The keys of the server's own user are not for its tenants.
    expect(words).toEqual(expect.arrayContaining(['IdentityFile=none', 'IdentityAgent=none', 'IdentitiesOnly=yes']));
  });

  test('never gives a hostile ref to git', async () => {
    for (const ref of [
      '--upload-pack=touch x',
      '-x',
      'a b',
      '../up',
      'a..b',
      '',
      'refs/heads/*',
      'x\ny',
      'HEAD',
      'a:b',
    ]) {
      const started = fetchWith({
        repositoryUrl: `${remote.url}/app.git`,
        ref,
        beforeStart: () => Promise.reject(new Error('started')),
      });
      await expect(started).rejects.toThrow(GitRefused);
    }
  });

  test('does not run before it is recorded', async () => {
    const before = remote.requests.length;
    const refused = fetchWith({
      repositoryUrl: `${remote.url}/app.git`,
      beforeStart: () => Promise.reject(new Error('fenced')),
    });
    await expect(refused).rejects.toThrow('fenced');
    expect(remote.requests).toHaveLength(before);
  });

  test('ends at once when it is aborted, and in time when nobody answers', async () => {
    const hanging = `${remote.url}/hang/app.git`;
    const children: ProcessIdentity[] = [];
    const asked = remote.requests.length;
    const controller = new AbortController();
    const fetching = fetchWith({
      repositoryUrl: hanging,
      signal: controller.signal,
      beforeStart: (child) => Promise.resolve(void children.push(child)),
    });
    await expect.poll(() => remote.requests.length, { timeout: 5_000, interval: 10 }).toBeGreaterThan(asked);
    controller.abort(new Error('canceled'));
    await expect(fetching).rejects.toThrow('canceled');
    for (const child of children) expect(await isAlive(child)).toBe(false);
    await expect(fetchWith({ repositoryUrl: hanging, timeoutMs: 300 })).rejects.toThrow(RepositoryUnreachable);
    remote.requests.splice(asked);
  });
});

describe('validateRef', () => {
  const names = [
    'main', 'feature/a', 'a.b', 'release-1.0', 'ü', 'a/.b', 'a.lock', 'a.lock/b', '.a', 'a.', 'a..b', 'a//b', '/a', 'a/',
    'a b', 'a~b', 'a^b', 'a:b', 'a?b', 'a*b', 'a[b', 'a\\b', 'a@{b', 'a\u007fb', 'a\tb', '@', 'a@b', '{', '-a', 'HEAD',
  ]; // prettier-ignore

  test.each(names)('agrees with git on %j', async (name) => {
    const accepted = await run('git', ['check-ref-format', '--branch', name]).then(
      () => true,
      () => false,
    );
    expect(validateRef(name) === null).toBe(accepted && name !== 'HEAD' && name !== '@');
  });

  test('takes full commit ids only', () => {
    expect(validateRef('a'.repeat(40))).toBeNull();
    expect(validateRef('a'.repeat(64))).toBeNull();
    expect(validateRef('x'.repeat(256))).not.toBeNull();
  });
});

describe('validateRepositoryUrl', () => {
  test.each([
    'https://example.com/a.git',
    'https://example.com:8443/a/b',
    'ssh://git@example.com/a',
    'http://[::1]:3000/a',
  ])('takes %s', (url) => expect(validateRepositoryUrl(url, ['https', 'http', 'ssh'])).toBeNull());

  test.each([
    'git@example.com:a/b.git', 'ext::sh -c id', 'file:///etc', 'git://example.com/a', 'https://u:p@example.com/a',
    'https://u@example.com/a', 'ssh://git:p@example.com/a', 'ssh://-oProxyCommand=id/a', 'https://example.com/a?b',
    'https://example.com/a#b', 'https://example.com', 'https://example.com./a', 'https://exa\tmple.com/a',
    ' https://example.com/a', 'https://example.com/a%0ab', 'https:\\\\example.com\\a', '', '--upload-pack=id',
  ])('refuses %j', (url) => expect(validateRepositoryUrl(url, ['https', 'http', 'ssh'])).not.toBeNull()); // prettier-ignore
});
