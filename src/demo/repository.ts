import { execFile } from 'node:child_process';
import { chmod, cp, mkdir, readFile, rm, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { promisify } from 'node:util';

const run = promisify(execFile);

/** A Git repository on this machine with the sample application, to which the demo commits. */
export interface DemoRepository {
  /** For `repositoryUrl`. */
  readonly url: string;
  /** Commits the application as it is, under this version. Answers with the commit's id. */
  commitGood(version: string): Promise<string>;
  /** Commits a version whose health check never passes. */
  commitBroken(version: string): Promise<string>;
}

/**
 * @param dir made anew; other users of the machine can read it, because applications run as such
 * @param searchPath PATH that git is looked up in
 */
export async function demoRepository(dir: string, sample: string, searchPath: string): Promise<DemoRepository> {
  await rm(dir, { recursive: true, force: true });
  await mkdir(dir, { recursive: true });
  await chmod(dir, 0o755);
  const git = async (...args: string[]) => {
    const { stdout } = await run(
      'git',
      ['-c', 'user.name=Demo', '-c', 'user.email=demo@example.com', '-c', 'commit.gpgsign=false', ...args],
      { cwd: dir, env: { PATH: searchPath, HOME: dir, GIT_CONFIG_NOSYSTEM: '1', LC_ALL: 'C' } },
    );
    return stdout.trim();
  };
  await git('init', '--quiet', '--initial-branch', 'main');
  const manifest = path.join(dir, 'package.json');
  const server = path.join(dir, 'server.js');
  const commit = async (version: string, subject: string) => {
    const json = JSON.parse(await readFile(manifest, 'utf8')) as object;
    await writeFile(manifest, `${JSON.stringify({ ...json, version }, null, 2)}\n`);
    await git('add', '--all');
    await git('commit', '--quiet', '--message', subject);
    return git('rev-parse', 'HEAD');
  };
  return {
    url: `file://${dir}`,
    async commitGood(version) {
      await cp(sample, dir, { recursive: true });
      return commit(version, `Release ${version}`);
    },
    async commitBroken(version) {
      const source = await readFile(server, 'utf8');
      const broken = source.replace(
        "writeHead(200, { 'content-type': 'text/plain' }).end('ok\\n')",
        "writeHead(500).end('database is missing\\n')",
      );
      if (broken === source) throw new Error('The sample application has no health check that could be broken');
      await writeFile(server, broken);
      return commit(version, `Release ${version}, which cannot reach its database`);
    },
  };
}
