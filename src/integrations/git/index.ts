import { chmod, mkdir, rename, writeFile } from 'node:fs/promises';
import { isIP } from 'node:net';
import { dirname, isAbsolute, join, posix } from 'node:path';
import { DomainError } from '#kernel/errors.ts';
import type { Logger } from '#kernel/log.ts';
import { DiskFull } from '#kernel/system-error.ts';
import { spawnRecorded } from '#kernel/processes/children.ts';
import { OutboundRefused, withoutSecrets, type OutboundPolicy } from '#kernel/outbound.ts';

export type GitProtocol = 'https' | 'http' | 'ssh' | 'file';

/** The remote does not answer, has no such repository for us, or did not finish in time. */
export class RepositoryUnreachable extends DomainError {
  readonly code = 'REPOSITORY_UNREACHABLE';
  /** Without credentials. */
  readonly repositoryUrl: string;
  constructor(repositoryUrl: string, detail: string) {
    super(`The repository ${repositoryUrl} cannot be read: ${detail}`);
    this.repositoryUrl = repositoryUrl;
  }
}

/** The repository has no such branch or commit. */
export class RefNotFound extends DomainError {
  readonly code = 'REF_NOT_FOUND';
  readonly repositoryUrl: string;
  readonly ref: string;
  constructor(repositoryUrl: string, ref: string) {
    super(`The repository ${repositoryUrl} has no branch or commit ${ref}.`);
    this.repositoryUrl = repositoryUrl;
    this.ref = ref;
  }
}

/** What a pull request points at is not the commit that was asked for: its branch was pushed to. */
export class PullRequestMoved extends DomainError {
  readonly code = 'PULL_REQUEST_MOVED';
  readonly repositoryUrl: string;
  constructor(repositoryUrl: string, pullRequest: number, wanted: string) {
    super(`The pull request ${pullRequest} of ${repositoryUrl} is not at the commit ${wanted} any more.`);
    this.repositoryUrl = repositoryUrl;
  }
}

/** Why it is refused: the URL, the name of the branch, the address behind the URL, or what the repository contains. */
export type GitRefusal = 'URL' | 'REF' | 'ADDRESS' | 'CONTENT';

/** The server does not fetch this. */
export class GitRefused extends DomainError {
  readonly code = 'GIT_REFUSED';
  readonly repositoryUrl: string;
  readonly reason: GitRefusal;
  constructor(repositoryUrl: string, reason: GitRefusal, message: string) {
    super(message);
    this.repositoryUrl = repositoryUrl;
    this.reason = reason;
  }
}

export interface GitOptions {
  /** Default: `git`, looked up in `path`. */
  readonly gitPath?: string;
  /** The PATH that git and its helpers (ssh) run with. */
  readonly path: string;
  /** What may be fetched from. `file` is for development and the demo. */
  readonly protocols: readonly GitProtocol[];
  readonly outbound: OutboundPolicy;
  /** Folder for the generated configuration, made by `createGit`; other users must be able to reach it. */
  readonly homeDir: string;
  readonly log: Logger;
}

export interface FetchCommitOptions {
  readonly repositoryUrl: string;
  /** Name of a branch, or a full commit id of 40 or 64 hexadecimal digits. */
  readonly ref: string;
  /**
   * Number of a pull request: `ref`, a full commit id, is taken only from what the repository has as that pull request's
   * head. @see https://docs.github.com/en/pull-requests/collaborating-with-pull-requests/reviewing-changes-in-pull-requests/checking-out-pull-requests-locally
   */
  readonly pullRequest?: number;
  /** An existing empty folder that `uid` may write; gets the files of the commit, without `.git`. */
  readonly intoDir: string;
  /** User that git runs as (only root can choose); default: the server's. For SSH it must have a name: ssh insists. */
  readonly uid?: number | undefined;
  readonly gid?: number | undefined;
  readonly signal: AbortSignal;
  /** For all of it, milliseconds. */
  readonly timeoutMs: number;
  /** One line of what git and the remote say, without its line end and control characters. */
  readonly onOutput: (line: string) => void;
  /** Called before each git process does anything; git does not run when it rejects. */
  readonly beforeStart: (child: { readonly pid: number; readonly startTime: string }) => Promise<void>;
  /** HTTP Basic credentials. Processes of `uid` can see them while git runs. */
  readonly credentials?: { readonly username: string; readonly password: string };
}

export interface FetchedCommit {
  readonly commitSha: string;
  /** First line of the commit's message, at most 200 characters. */
  readonly commitSubject: string;
}

export interface Git {
  /**
   * Fetches the files of one commit, and nothing else of the history.
   * @throws RepositoryUnreachable | RefNotFound | PullRequestMoved | GitRefused, the signal's reason, or what `beforeStart` rejects with
   */
  fetchCommit(options: FetchCommitOptions): Promise<FetchedCommit>;
}

const commitId = /^(?:[0-9a-f]{40}|[0-9a-f]{64})$/i;
const maxLine = 4_000;
/** Of one git command on standard output: listings, never files. */
const maxOutputBytes = 128 * 2 ** 20;
/** Paths are bytes to git; as latin1 every byte is one character and comes back as it was. */
const bytes = 'latin1';
/** More links than this are not looked at one by one: the repository is refused. */
const maxLinks = 20_000;
const maxLinkTarget = 4_096;
/** `http.curloptResolve` came with 2.37; without it a host could answer with another address than the checked one. */
const leastVersion = [2, 37] as const;

/** What is wrong with a URL to fetch from, as a sentence; null: nothing. */
export function validateRepositoryUrl(repositoryUrl: string, protocols: readonly GitProtocol[]): string | null {
  if (repositoryUrl.length > 2_048) return 'The URL is longer than 2048 characters.';
  // The URL parser drops some of these without a word, and git must see what was checked.
  // oxlint-disable-next-line no-control-regex
  if (/[\u0000-\u0020\u007f\\]|%[01][0-9a-f]|%7f/i.test(repositoryUrl)) {
    return 'The URL contains a space, a backslash or a control character.';
  }
  const url = URL.parse(repositoryUrl);
  if (!url) return 'This is not a URL. An SSH address is written as ssh://git@host/path.';
  if (!protocols.some((protocol) => url.protocol === `${protocol}:`)) {
    return `The scheme ${url.protocol} is not allowed, only ${protocols.join(', ')}.`;
  }
  if (url.password || (url.username && url.protocol !== 'ssh:')) return 'A URL must not contain credentials.';
  if (url.username && !/^[a-z0-9][a-z0-9._-]*$/i.test(url.username)) return 'The user name of the URL is not valid.';
  if (url.search || url.hash) return 'The URL must not have a query or a fragment.';
  if (url.protocol === 'file:') return url.host ? 'A file URL must not have a host.' : null;
  if (!/^(?:[a-z0-9](?:[a-z0-9._-]*[a-z0-9])?|\[[0-9a-f:.]+\])$/i.test(url.hostname)) return 'The host is not valid.';
  if (url.pathname === '' || url.pathname === '/') return 'The URL has no path.';
  return null;
}

/**
 * What is wrong with a branch name or full commit id, as a sentence; null: nothing.
 * @see https://git-scm.com/docs/git-check-ref-format
 */
export function validateRef(ref: string): string | null {
  if (commitId.test(ref)) return null;
  if (ref === '' || ref.length > 255) return 'A branch name has 1 to 255 characters.';
  if (ref.startsWith('-')) return 'A branch name does not start with a dash.';
  if (ref === 'HEAD' || ref === '@') return `${ref} is not the name of a branch.`;
  // oxlint-disable-next-line no-control-regex
  if (/[\u0000-\u0020\u007f~^:?*[\\]|\.\.|@\{|\/\/|^\/|\/$|\.$/.test(ref) || !ref.isWellFormed()) {
    return (
      'A branch name must not contain spaces, control characters, "..", "//", "@{" or any of ~ ^ : ? * [ \\, ' +
      'start or end with a slash, or end with a dot.'
    );
  }
  if (ref.split('/').some((part) => part.startsWith('.') || part.endsWith('.lock'))) {
    return 'No part of a branch name starts with a dot or ends with ".lock".';
  }
  return null;
}

/** Makes the configuration that every git process runs with, and nothing of the machine's or a user's. */
export async function createGit(options: GitOptions): Promise<Git> {
  const { gitPath = 'git', homeDir, protocols } = options;
  const configFile = join(homeDir, 'gitconfig');
  await mkdir(homeDir, { recursive: true });
  await chmod(homeDir, 0o755);
  const fresh = `${configFile}.${process.pid}`;
  await writeFile(fresh, configuration(protocols));
  await chmod(fresh, 0o644); // whatever the server's umask is
  await rename(fresh, configFile); // another server on this host may be reading it

  const baseEnvironment = {
    PATH: isAbsolute(gitPath) ? `${dirname(gitPath)}:${options.path}` : options.path,
    HOME: homeDir, // curl looks here for .netrc: there is none
    LC_ALL: 'C',
    GIT_CONFIG_NOSYSTEM: '1',
    GIT_CONFIG_GLOBAL: configFile,
    GIT_ATTR_NOSYSTEM: '1',
    GIT_ALLOW_PROTOCOL: protocols.join(':'),
    GIT_PROTOCOL_FROM_USER: '0',
    GIT_TERMINAL_PROMPT: '0',
    GIT_ASKPASS: '/bin/false',
    SSH_ASKPASS: '/bin/false',
  };

  let versionIsGood = false;

  return {
    async fetchCommit(request) {
      const { repositoryUrl, ref, intoDir, timeoutMs } = request;
      const shown = shownUrl(repositoryUrl);
      const urlProblem = validateRepositoryUrl(repositoryUrl, protocols);
      if (urlProblem) throw new GitRefused(shown, 'URL', urlProblem);
      const refProblem = validateRef(ref);
      if (refProblem) throw new GitRefused(shown, 'REF', refProblem);
      const { pullRequest } = request;
      if (pullRequest !== undefined && !(Number.isSafeInteger(pullRequest) && pullRequest > 0 && commitId.test(ref)))
        throw new GitRefused(shown, 'REF', 'A pull request has a number from 1 on, and its commit a full id.');
      const url = new URL(repositoryUrl);

      const late = AbortSignal.timeout(timeoutMs);
      const signal = AbortSignal.any([request.signal, late]);
      signal.throwIfAborted();
      const session: Session = { request, signal, late, shown };
      const remote = await remoteEnvironment(session, url);
      // Not the repository's own name of itself: git gets what the check has parsed.
      const address = url.href;

      await requireVersion(session, url);
      const commitSha = commitId.test(ref) ? ref.toLowerCase() : await resolveBranch(session, remote, address, ref);
      const format = commitSha.length === 64 ? 'sha256' : 'sha1';
      await git(session, {}, ['init', '--quiet', '--template=', `--object-format=${format}`, '--', intoDir]);
      const fetched = await attempt(session, remote, [
        'fetch', '--quiet', '--depth=1', '--no-tags', '--no-recurse-submodules', '--no-auto-maintenance', '--',
        address, pullRequest === undefined ? commitSha : `refs/pull/${pullRequest}/head`,
      ]); // prettier-ignore
      if (fetched.exitCode !== 0) {
        throw isUnknownCommit(fetched.errors) ? new RefNotFound(shown, ref) : failure(session, fetched.errors);
      }
      if (pullRequest !== undefined) {
        const head = (await git(session, {}, ['rev-parse', '--verify', 'FETCH_HEAD'])).toString().trim();
        if (head !== commitSha) throw new PullRequestMoved(shown, pullRequest, commitSha);
      }
      // A tag object has an id, too; only a commit is deployed.
      const kind = (await git(session, {}, ['cat-file', '-t', commitSha])).toString().trim();
      if (kind !== 'commit') throw new RefNotFound(shown, ref);

      await git(session, {}, ['read-tree', commitSha]);
      const outside = await linksOutside(session, commitSha);
      if (outside.length > 0) {
        await git(session, {}, ['update-index', '--force-remove', '-z', '--stdin'], `${outside.join('\0')}\0`);
        const shownLinks = outside.slice(0, 20).map((link) => printable(Buffer.from(link, bytes).toString()));
        options.log.warn(
          { repositoryUrl: shown, commitSha, links: shownLinks },
          'Left out links that point outside of the tree',
        );
        for (const link of shownLinks)
          request.onOutput(`Left out the symbolic link ${link}: it points outside of the tree.`);
        if (outside.length > 20) request.onOutput(`Left out ${outside.length - 20} more such links.`);
      }
      await git(session, {}, ['checkout-index', '--all', '--force', '--quiet']);
      const message = (await git(session, {}, ['log', '-1', '--format=%B', commitSha])).toString();
      // By a process of the same user: the server must not follow what that user can put in its way.
      await execute(session, {}, 'rm', ['-rf', '--', join(intoDir, '.git')]);
      return {
        commitSha,
        commitSubject: Array.from(printable(message.split('\n', 1)[0] ?? ''))
          .slice(0, 200)
          .join(''),
      };
    },
  };

  interface Session {
    readonly request: FetchCommitOptions;
    /** The caller's signal or the time-out. */
    readonly signal: AbortSignal;
    readonly late: AbortSignal;
    readonly shown: string;
  }
  interface Result {
    readonly exitCode: number | null;
    readonly output: Buffer;
    /** Last lines of standard error. */
    readonly errors: readonly string[];
  }

  async function requireVersion(session: Session, url: URL): Promise<void> {
    if (versionIsGood || url.protocol === 'file:' || isIP(url.hostname.replace(/[[\]]/g, '')) !== 0) return;
    const text = (await git(session, {}, ['version'])).toString();
    const [, major, minor] = /version (\d+)\.(\d+)/.exec(text) ?? [];
    versionIsGood =
      Number(major) > leastVersion[0] || (Number(major) === leastVersion[0] && Number(minor) >= leastVersion[1]);
    if (!versionIsGood) throw new Error(`git ${leastVersion.join('.')} or newer is needed, this is: ${text.trim()}`);
  }

  /** Checks the address and gives the environment that holds git to it. */
  async function remoteEnvironment(session: Session, url: URL): Promise<Record<string, string>> {
    const { shown, signal } = session;
    const { credentials } = session.request;
    if (url.protocol === 'file:') return {};
    const withoutUser = new URL(url);
    withoutUser.username = ''; // the git@ of an SSH URL is no secret
    let addresses: string[];
    try {
      ({ addresses } = await options.outbound.check(withoutUser, { protocols: ['ssh:'], signal }));
    } catch (error) {
      stopIfAborted(session);
      if (!(error instanceof OutboundRefused)) throw error;
      if (error.reason === 'UNRESOLVED') throw new RepositoryUnreachable(shown, error.message);
      throw new GitRefused(shown, 'ADDRESS', error.message);
    }
    if (url.protocol === 'ssh:') {
      const ssh = ['ssh', '-F', '/dev/null', '-o', 'BatchMode=yes', '-o', 'StrictHostKeyChecking=yes'];
      ssh.push('-o', `HostName=${addresses[0]}`, '-o', `HostKeyAlias=${url.hostname}`);
      ssh.push('-o', `UserKnownHostsFile="${join(homeDir, 'known_hosts')}"`, '-o', 'ProxyCommand=none');
      // Whatever HOME says, ssh looks for keys in the folder that the system knows of its user.
      for (const name of ['IdentityFile', 'CertificateFile', 'IdentityAgent', 'PKCS11Provider'])
        ssh.push('-o', `${name}=none`);
      ssh.push('-o', 'IdentitiesOnly=yes');
      // Git gives this to a shell.
      return {
        GIT_SSH_COMMAND: ssh.map((word) => `'${word.replaceAll("'", `'\\''`)}'`).join(' '),
        GIT_SSH_VARIANT: 'ssh',
      };
    }
    const settings: [string, string][] = [];
    if (isIP(url.hostname.replace(/[[\]]/g, '')) === 0) {
      const port = url.port || (url.protocol === 'https:' ? '443' : '80');
      const pinned = addresses.map((address) => (address.includes(':') ? `[${address}]` : address));
      settings.push(['http.curloptResolve', `${url.hostname}:${port}:${pinned.join(',')}`]);
    }
    if (credentials) {
      const basic = Buffer.from(`${credentials.username}:${credentials.password}`).toString('base64');
      // For this origin only, and not as an argument: every user of the machine can read those.
      settings.push([`http.${url.origin}/.extraHeader`, `Authorization: Basic ${basic}`]);
    }
    const environment: Record<string, string> = { GIT_CONFIG_COUNT: String(settings.length) };
    for (const [index, [name, value]] of settings.entries()) {
      environment[`GIT_CONFIG_KEY_${index}`] = name;
      environment[`GIT_CONFIG_VALUE_${index}`] = value;
    }
    return environment;
  }

  async function resolveBranch(
    session: Session,
    remote: Record<string, string>,
    address: string,
    branch: string,
  ): Promise<string> {
    const name = `refs/heads/${branch}`;
    const found = await attempt(session, remote, ['ls-remote', '--quiet', '--refs', '--', address, name]);
    if (found.exitCode !== 0) throw failure(session, found.errors);
    // The remote matches the end of names: other/refs/heads/main would answer, too.
    for (const line of found.output.toString().split('\n')) {
      const [sha = '', refName] = line.split('\t');
      if (refName === name && commitId.test(sha)) return sha;
    }
    throw new RefNotFound(session.shown, branch);
  }

  /**
   * The symbolic links of a commit that lead out of its tree, as paths in it. Decided from git's objects, before any of
   * them exists as a file.
   */
  async function linksOutside(session: Session, commitSha: string): Promise<string[]> {
    const listing = (await git(session, {}, ['ls-tree', '-r', '-z', '--long', '--full-tree', commitSha])).toString(
      bytes,
    );
    const links = new Map<string, { id: string; target: string | null }>();
    let submodules = 0;
    for (const entry of listing.split('\0')) {
      const tab = entry.indexOf('\t');
      const [mode, , id = '', size] = entry.slice(0, tab).split(/ +/);
      if (mode === '160000') submodules += 1;
      if (mode === '120000') links.set(entry.slice(tab + 1), { id, target: Number(size) > maxLinkTarget ? null : '' });
    }
    if (submodules > 0) session.request.onOutput(`Submodules are not fetched (${submodules} in this commit).`);
    if (links.size > maxLinks)
      throw new GitRefused(session.shown, 'CONTENT', `The commit has more than ${maxLinks} symbolic links.`);
    const read = [...links.values()].filter((link) => link.target !== null);
    if (read.length > 0) {
      const ids = read.map((link) => `${link.id}\n`).join('');
      let rest = await git(session, {}, ['cat-file', '--batch'], ids);
      for (const link of read) {
        const lineEnd = rest.indexOf('\n');
        const size = Number(rest.subarray(0, lineEnd).toString().split(' ')[2]);
        link.target = rest.subarray(lineEnd + 1, lineEnd + 1 + size).toString(bytes);
        rest = rest.subarray(lineEnd + 1 + size + 1);
      }
    }
    const targets = new Map([...links].map(([path, link]) => [path, link.target]));
    return [...links.keys()].filter((path) => leadsOutside(path, targets));
  }

  async function git(session: Session, env: Record<string, string>, args: string[], input?: string): Promise<Buffer> {
    return (await execute(session, env, gitPath, args, input)).output;
  }

  async function attempt(session: Session, env: Record<string, string>, args: string[]): Promise<Result> {
    return await start(session, env, gitPath, args);
  }

  async function execute(
    session: Session,
    env: Record<string, string>,
    command: string,
    args: string[],
    input?: string,
  ): Promise<Result> {
    const result = await start(session, env, command, args, input);
    if (result.exitCode !== 0) {
      throw new Error(`${command} ${args[0]} ended with ${result.exitCode}: ${result.errors.join(' | ')}`);
    }
    return result;
  }

  async function start(
    session: Session,
    env: Record<string, string>,
    command: string,
    args: string[],
    input?: string,
  ): Promise<Result> {
    const { request, signal } = session;
    stopIfAborted(session);
    const { child, exited } = await spawnRecorded({
      command,
      args,
      cwd: request.intoDir,
      // Git does not look for a repository above: the folder may lie in the checkout of this server.
      env: { ...baseEnvironment, GIT_CEILING_DIRECTORIES: dirname(request.intoDir), ...env },
      uid: request.uid,
      gid: request.gid,
      stdio: [input === undefined ? 'ignore' : 'pipe', 'pipe', 'pipe'],
      umask: 0o077,
      record: request.beforeStart,
    });
    // Nothing of a fetch is worth a last word: the whole group ends at once.
    const kill = (): void => killGroup(child.pid);
    if (signal.aborted) kill();
    else signal.addEventListener('abort', kill, { once: true });
    try {
      const errors: string[] = [];
      let failed: unknown;
      const say = (raw: string): void => {
        const line = printable(raw).slice(0, maxLine);
        if (!line) return;
        errors.push(line);
        if (errors.length > 20) errors.shift();
        request.onOutput(line);
      };
      const guarded = (work: () => void): void => {
        try {
          work();
        } catch (error) {
          failed ??= error;
          kill();
        }
      };
      let rest = '';
      child.stderr?.setEncoding('utf8').on('data', (chunk: string) => {
        const lines = (rest + chunk).split(/\r?\n|\r/);
        rest = (lines.pop() ?? '').slice(0, maxLine);
        guarded(() => lines.forEach(say));
      });
      const output: Buffer[] = [];
      let outputBytes = 0;
      child.stdout?.on('data', (chunk: Buffer) => {
        output.push(chunk);
        outputBytes += chunk.length;
        guarded(() => {
          if (outputBytes > maxOutputBytes)
            throw new GitRefused(session.shown, 'CONTENT', 'The commit has too many files.');
        });
      });
      const closed = new Promise<void>((resolve) => {
        child.once('close', () => resolve());
      });
      if (input !== undefined) child.stdin?.end(input, bytes);
      const { exitCode } = await exited;
      killGroup(child.pid); // a helper that outlives git would keep the pipes open
      await closed;
      guarded(() => say(rest));
      stopIfAborted(session);
      if (failed !== undefined) throw failed;
      // Of this host's disk; what a remote says of its own is no business of ours.
      const full = (line: string): boolean => !line.startsWith('remote:') && line.includes('No space left on device');
      if (exitCode !== 0 && errors.some(full)) throw new DiskFull();
      return { exitCode, output: Buffer.concat(output), errors };
    } finally {
      signal.removeEventListener('abort', kill);
    }
  }

  function stopIfAborted({ request, late, shown }: Session): void {
    request.signal.throwIfAborted();
    if (late.aborted)
      throw new RepositoryUnreachable(shown, `it took longer than ${Math.round(request.timeoutMs / 1000)} s.`);
  }

  function failure({ shown }: Session, errors: readonly string[]): DomainError {
    const text = errors.join('\n');
    const fsck = /^(?:error|fatal): .*(?:object [0-9a-f]{40,64}: \w+: .*|fsck error.*)$/m.exec(text);
    if (fsck) return new GitRefused(shown, 'CONTENT', `The repository contains a bad object: ${fsck[0]}`);
    const line = errors.findLast((one) => one.startsWith('fatal: ')) ?? errors.at(-1);
    if (line?.includes('could not read Username')) {
      return new RepositoryUnreachable(shown, 'there is no such repository, or it asks for credentials.');
    }
    return new RepositoryUnreachable(shown, line?.replace(/^fatal: /, '') ?? 'git says nothing.');
  }
}

/** @see https://git-scm.com/docs/git-config */
function configuration(protocols: readonly GitProtocol[]): string {
  const allowed = protocols.map((protocol) => `[protocol "${protocol}"]\n\tallow = always\n`).join('');
  return `# Generated by Switchyard at every start; changes are lost.
[safe]
	directory = *
[core]
	hooksPath = /dev/null
	symlinks = true
	fsmonitor = false
	attributesFile = /dev/null
	excludesFile = /dev/null
	protectHFS = true
	protectNTFS = true
[protocol]
	allow = never
	version = 2
${allowed}[submodule]
	recurse = false
[fetch]
	recurseSubmodules = false
	fsckObjects = true
[transfer]
	fsckObjects = true
	credentialsInUrl = die
	bundleURI = false
[http]
	followRedirects = false
	lowSpeedLimit = 1000
	lowSpeedTime = 30
[credential]
	helper =
	interactive = false
[gc]
	auto = 0
[maintenance]
	auto = false
[log]
	showSignature = false
[i18n]
	logOutputEncoding = UTF-8
[advice]
	detachedHead = false
[init]
	defaultBranch = main
`;
}

/**
 * Whether following a link can leave the tree. `links` has every link's target; null: too long to be looked at.
 * Walks the target component by component, through other links, as the system would.
 */
function leadsOutside(path: string, links: ReadonlyMap<string, string | null>): boolean {
  let steps = 0;
  const target = links.get(path);
  return typeof target !== 'string' || walk(directoryOf(path), target) === null;

  /** Where `target` leads from the folder `from`, as components below the root; null: out of the tree. */
  function walk(from: readonly string[], target: string): readonly string[] | null {
    if (posix.isAbsolute(target) || target.includes('\0')) return null;
    let here: readonly string[] = from;
    for (const part of target.split('/')) {
      if (part === '' || part === '.') continue;
      if ((steps += 1) > 1_000) return null; // a loop, or something made to be slow
      if (part === '..') {
        if (here.length === 0) return null;
        here = here.slice(0, -1);
        continue;
      }
      const next = [...here, part];
      const through = links.get(next.join('/'));
      if (through === undefined) {
        here = next;
        continue;
      }
      const led = through === null ? null : walk(here, through);
      if (led === null) return null;
      here = led;
    }
    return here;
  }
}

function directoryOf(path: string): string[] {
  return path.split('/').slice(0, -1);
}

function isUnknownCommit(errors: readonly string[]): boolean {
  return errors.some((line) =>
    /not our ref|unadvertised object|couldn't find remote ref|no such remote ref/i.test(line),
  );
}

function printable(text: string): string {
  // Terminal sequences of a remote must not reach whoever reads the log.
  // oxlint-disable-next-line no-control-regex
  return text.replace(/\u001b\[[0-9;?]*[a-zA-Z]|[\u0000-\u001f\u007f-\u009f]/g, '').toWellFormed();
}

function shownUrl(repositoryUrl: string): string {
  const url = URL.parse(repositoryUrl);
  return url ? withoutSecrets(url) : '(not a URL)';
}

function killGroup(pid: number | undefined): void {
  if (pid === undefined) return;
  try {
    process.kill(-pid, 'SIGKILL');
  } catch (error) {
    const gone = error instanceof Error && 'code' in error && error.code === 'ESRCH';
    if (!gone) throw error;
  }
}
