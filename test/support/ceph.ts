import { execFile, spawn, type ChildProcess } from 'node:child_process';
import { randomBytes, randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { createWriteStream } from 'node:fs';
import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { promisify } from 'node:util';
import type { TestContext } from 'vitest';
import { freePort, locate, type Counterpart } from './counterparts.ts';
import { until } from './embedded.ts';
import type { TestS3 } from './s3.ts';

const run = promisify(execFile);
const programs: Counterpart[] = [
  { program: 'radosgw', package: 'radosgw' },
  { program: 'radosgw-admin', package: 'radosgw' },
  { program: 'ceph-mon', package: 'ceph-mon' },
  { program: 'monmaptool', package: 'ceph-mon' },
  { program: 'ceph-osd', package: 'ceph-osd' },
  { program: 'ceph', package: 'ceph-common' },
];

export interface TestCeph extends Pick<TestS3, 'endpoint' | 'stop'> {
  readonly credentials: { readonly accessKeyId: string; readonly secretAccessKey: string };
}

/**
 * A real Ceph cluster of one, in memory and on loopback, with its S3 gateway: the reference for what the server in this
 * process does not do. Takes 20 s. Skips the test where the programs are missing.
 * @see https://docs.ceph.com/en/pacific/install/manual-deployment/
 */
export async function startCeph(context: TestContext): Promise<TestCeph> {
  const at: Record<string, string> = {};
  for (const one of programs) at[one.program] = await locate(one, context);
  const folder = await mkdtemp(path.join(tmpdir(), 'switchyard-ceph-'));
  // The storage daemon takes some of 6800 to 7300 itself.
  const [monitor, gateway] = [await freePort(), await freePort()];
  const conf = path.join(folder, 'ceph.conf');
  const fsid = randomUUID();
  await writeFile(
    conf,
    `[global]
fsid = ${fsid}
mon host = v2:127.0.0.1:${monitor}/0
auth cluster required = none
auth service required = none
auth client required = none
# The gateway's own default wants encryption, and with it authentication.
ms mon client mode = crc
public addr = 127.0.0.1
cluster addr = 127.0.0.1
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 1
osd pool default pgp num = 1
osd pool default pg autoscale mode = off
mon allow pool size one = true
mon max pg per osd = 1000
mon data avail crit = 1
osd crush chooseleaf type = 0
osd objectstore = memstore
memstore device bytes = 1073741824
mon data = ${folder}/mon
osd data = ${folder}/osd
rgw data = ${folder}/rgw
run dir = ${folder}
admin socket = ${folder}/$name.asok
log file = ${folder}/$name.log
keyring = ${folder}/keyring
rgw frontends = beast endpoint=127.0.0.1:${gateway}
rgw thread pool size = 32
`,
  );
  for (const name of ['mon', 'osd', 'rgw']) await mkdir(path.join(folder, name));
  await writeFile(path.join(folder, 'keyring'), '');
  const ask = async (program: string, ...args: string[]): Promise<string> =>
    (await run(at[program] ?? program, ['-c', conf, ...args], { timeout: 60_000, cwd: folder })).stdout;
  const running: { child: ChildProcess; ended: Promise<unknown> }[] = [];
  const stop = async (): Promise<void> => {
    for (const { child, ended } of running.toReversed()) {
      child.kill('SIGKILL');
      await ended;
    }
    await rm(folder, { recursive: true, force: true });
  };
  const daemon = async (program: string, ...args: string[]): Promise<() => Promise<void>> => {
    const output = path.join(folder, `${program}.out`);
    const child = spawn(at[program] ?? program, ['-c', conf, '-f', ...args], { cwd: folder, stdio: ['ignore', 'pipe', 'pipe'] }); // prettier-ignore
    const file = createWriteStream(output);
    for (const stream of [child.stdout, child.stderr]) stream.pipe(file, { end: false });
    running.push({ child, ended: once(child, 'exit').finally(() => file.end()) });
    return async () => {
      if (child.exitCode !== null) throw new Error(`${program} ended:\n${await readFile(output, 'utf8')}`);
    };
  };

  try {
    const monmap = path.join(folder, 'monmap');
    await run(at['monmaptool'] ?? '', ['--create', '--fsid', fsid, '--addv', 'a', `[v2:127.0.0.1:${monitor}]`, monmap]);
    await ask('ceph-mon', '--mkfs', '-i', 'a', '--monmap', monmap);
    await daemon('ceph-mon', '-i', 'a');
    const osdId = randomUUID();
    // Waits for the monitor.
    await ask('ceph', 'osd', 'new', osdId);
    await ask('ceph-osd', '-i', '0', '--mkfs', '--osd-uuid', osdId);
    await daemon('ceph-osd', '-i', '0');
    const credentials = {
      accessKeyId: randomBytes(10).toString('hex'),
      secretAccessKey: randomBytes(20).toString('hex'),
    };
    const keys = [`--access-key=${credentials.accessKeyId}`, `--secret-key=${credentials.secretAccessKey}`];
    // Waits for the storage daemon, and makes the pools.
    await ask('radosgw-admin', 'user', 'create', '--uid=test', '--display-name=Test', ...keys);
    const alive = await daemon('radosgw', '-n', 'client.rgw');
    const endpoint = `http://127.0.0.1:${gateway}`;
    await until(
      'the gateway answers',
      async () => {
        await alive();
        return fetch(endpoint).then(
          (answer) => answer.ok,
          () => false,
        );
      },
      120_000,
    );
    return { endpoint, credentials, stop };
  } catch (error) {
    await stop();
    throw error;
  }
}
