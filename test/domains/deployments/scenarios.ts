import { mkdir, readdir, readFile, symlink, writeFile } from 'node:fs/promises';
import { Agent, request } from 'node:http';
import path from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { expect, test, type TestContext } from 'vitest';
import { until } from '../../support/embedded.ts';
import { DeploymentHost } from '../../../src/domains/deployments/service/host.ts';
import { data, socket } from '../../support/client.ts';
import { git, startGitHttp } from '../../support/git-http.ts';
import { deliver, push, startGitHub } from '../../support/github.ts';
import { mutate } from '../../support/mutate.ts';
import { startTestServer, testFolder, type TestServer } from '../../support/server.ts';
import { livenessMs, plain, raw, repository, serving, team, type Repository, type Team } from './harness.ts';

/** What whole deployments are tried on. */
export interface Ground {
  readonly driver: 'PROCESS' | 'DOCKER';
  readonly server: TestServer;
  readonly folder: string;
  /** Beside what every server of these tests is given. */
  readonly settings: Readonly<Record<string, string>>;
}

/** What the driver has of an application: artifacts and instances. */
async function left({ server, driver }: Ground, applicationId: string): Promise<readonly string[]> {
  const { artifacts, instances } = await server.running.app.use(DeploymentHost).driver(driver).list();
  return [...artifacts, ...instances].map((one) => JSON.stringify(one)).filter((one) => one.includes(applicationId));
}

/** A server that answers with what a file says. */
const readingFrom = (file: string): string =>
  serving('').replace(
    'response.end("")',
    `{ try { response.end(require('node:fs').readFileSync('${file}')); } catch (error) { response.end(error.code); } }`,
  );

/** Three clients ask again and again, two of them each time on a connection of its own, until they are told to stop. */
export async function loop(
  address: string,
): Promise<() => Promise<{ answers: Set<string>; failures: string[]; count: number }>> {
  const [answers, failures] = [new Set<string>(), [] as string[]];
  const told = new AbortController();
  let count = 0;
  const agents = [true, false, false].map((keepAlive) => new Agent({ keepAlive, maxSockets: 1 }));
  const once = (agent: Agent) =>
    new Promise<void>((resolve) => {
      const sent = request(address, { agent, timeout: 10_000 }, (response) => {
        let text = '';
        response.setEncoding('utf8').on('data', (chunk: string) => (text += chunk));
        response.once('end', () => {
          if (response.statusCode === 200) answers.add(text);
          else failures.push(`${response.statusCode} ${text}`);
          resolve();
        });
        response.once('error', (error) => (failures.push(error.message), resolve()));
      });
      sent.once('error', (error) => (failures.push(error.message), resolve()));
      sent.end();
    });
  const asking = Promise.all(
    agents.map(async (agent) => {
      while (!told.signal.aborted) {
        await once(agent);
        count += 1;
        // Seventy times a second each, and not as often as the processors can: something is deployed beside it.
        await pause(15);
      }
    }),
  );
  return async () => {
    told.abort();
    await asking;
    for (const agent of agents) agent.destroy();
    return { answers, failures, count };
  };
}

/** An application with a repository of its own. */
export async function fresh(
  on: Team,
  ground: Ground,
  name: string,
  files: Readonly<Record<string, string>>,
  input: object = {},
): Promise<{ id: string; source: Repository }> {
  const source = await repository(ground.folder, name);
  await source.commit({ ...plain, ...files });
  return { id: await on.application({ name, repositoryUrl: source.url, driver: ground.driver, ...input }), source };
}

/** Clients ask in a loop while an application is deployed again and again: none of them sees a request fail. */
export async function switches(
  place: Ground,
  on: Team,
  name: string,
  times: number,
): Promise<{ readonly id: string; readonly failures: readonly string[] }> {
  const { id, source } = await fresh(on, place, name, { 'server.js': serving('v0') });
  expect((await on.deploy(id)).phase).toBe('DEPLOYED');
  const stop = await loop(`${await on.address(id)}/`);
  for (let version = 1; version <= times; version += 1) {
    await source.commit({ 'server.js': serving(`v${version}`) });
    expect((await on.deploy(id)).phase).toBe('DEPLOYED');
  }
  await until('the last one answers', async () => (await on.answer(id)) === `v${times}`, livenessMs);
  const { answers, failures, count } = await stop();
  console.log(`MEASURED ${place.driver}: ${count} requests during ${times} switches, ${failures.length} failed`);
  expect(answers).toEqual(new Set(Array.from({ length: times + 1 }, (_, version) => `v${version}`)));
  expect(count).toBeGreaterThan(20 * times);
  return { id, failures };
}

/** The deployments that every driver must bring to their end. */
export function scenarios(ground: (context: TestContext) => Promise<Ground>): void {
  const serves = async ({ server }: Ground, applicationId: string) =>
    server.running.app.db.release.findFirstOrThrow({ where: { activeOf: { id: raw('Application', applicationId) } } });

  test('deployed, redeployed, rolled back to the very artifact', async (context) => {
    const place = await ground(context);
    const on = await team(place.server.url);
    const { id, source } = await fresh(on, place, 'there-and-back', { 'server.js': serving('one') });
    const one = await on.deploy(id);
    expect(one).toMatchObject({ phase: 'DEPLOYED', status: 'SUCCEEDED' });
    expect(await on.answer(id)).toBe('one');
    const first = await serves(place, id);
    expect(first.driver).toBe(place.driver);
    expect(one.logs.nodes.map(({ text }) => text)).toContain('listening for one');
    await source.commit({ 'server.js': serving('two') });
    expect((await on.deploy(id)).phase).toBe('DEPLOYED');
    expect(await on.answer(id)).toBe('two');
    const back = await on.rollback({ applicationId: id });
    expect(await on.over(back.deployment?.id ?? '')).toMatchObject({ phase: 'DEPLOYED', trigger: 'ROLLBACK', restores: { id: one.release?.id } }); // prettier-ignore
    expect(await on.answer(id)).toBe('one');
    const restored = await serves(place, id);
    expect(restored).toMatchObject({ id: first.id, artifact: first.artifact, imageId: first.imageId });
    expect(restored.instance).not.toEqual(first.instance);
    expect((await on.stopApplication(id)).__typename).toBe('StopApplicationSuccess');
  });

  test('one that does not become healthy is rolled back, and what served serves on', async (context) => {
    const place = await ground(context);
    const on = await team(place.server.url);
    const { id, source } = await fresh(on, place, 'unhealthy', { 'server.js': serving('good') }, { healthTimeoutS: 8 });
    expect((await on.deploy(id)).phase).toBe('DEPLOYED');
    const good = await serves(place, id);
    await source.commit({ 'server.js': serving('bad').replace('response.end(', 'response.writeHead(503).end(') });
    const bad = await on.deploy(id);
    expect(bad).toMatchObject({ phase: 'ROLLED_BACK', statusReason: '/ was not healthy within 8 s: it answered 503' });
    expect(bad.healthEvidence).toMatchObject({ lastResponse: { status: 503, bodyStart: 'bad' }, lastLines: ['listening for bad'] }); // prettier-ignore
    expect(await on.answer(id)).toBe('good');
    expect(await serves(place, id)).toMatchObject({ id: good.id, instance: good.instance });
    await source.commit({ 'server.js': 'console.error("no database"); process.exit(3)' });
    expect(await on.deploy(id)).toMatchObject({ phase: 'ROLLED_BACK', healthEvidence: { lastLines: ['no database'] } });
    expect(await on.answer(id)).toBe('good');
  });

  test('a dashboard follows and asks for nothing twice: state, steps, output, address, figures and alerts come by themselves', async (context) => {
    const place = await ground(context);
    const on = await team(place.server.url);
    const mortal = serving('watched').replace('response.end(', `request.url === '/exit' ? process.exit(1) : response.end(`); // prettier-ignore
    const { id } = await fresh(on, place, 'watched', { 'server.js': mortal });
    const rule = { applicationId: id, condition: 'RESTARTS', threshold: 1, windowS: 300 };
    await mutate(place.server.url, 'setAlertRule', rule, on.who);
    const client = socket(on.url, on.who);
    context.onTestFinished(() => void client.dispose());
    const problems: unknown[] = [];
    const follow = <T>(variables: { readonly id: string }, field: string, heard: (item: T) => void): void =>
      void client.subscribe<{ item: T }>(
        { query: `subscription ($id: ID!) { item: ${field} }`, variables },
        {
          next: ({ data: given, errors }) => (given ? heard(given.item) : problems.push(errors)),
          error: (error) => void problems.push(error),
          complete: () => undefined,
        },
      );
    interface Card {
      readonly id: string;
      readonly phase: string;
    }
    const card = `id status statusReason phase queuePosition progress commitSha commitSubject startedAt completedAt
      steps { name status attempt startedAt completedAt error } release { id status } application { name address }`;
    const cards: Card[] = [];
    const latencies: number[] = [];
    const lines: string[] = [];
    const points: unknown[] = [];
    const alerts: string[] = [];
    let begun = 0;
    type Item = { readonly __typename: string };
    follow<Item & { readonly event: { readonly at: string }; readonly deployment: Card | null }>({ id }, `deploymentUpdated(of: $id) { __typename ... on DeploymentUpdate { event { at } deployment { ${card} } } }`, ({ __typename, event, deployment }) => {
      if (__typename !== 'DeploymentUpdate') return void (begun += 1);
      latencies.push(Date.now() - Date.parse(event.at));
      if (!deployment) return;
      if (cards.length === 0) follow<Item & { readonly text?: string }>({ id: deployment.id }, 'runLogs(id: $id) { __typename ... on LogLine { text } }', ({ text }) => text !== undefined && lines.push(text));
      cards.push(deployment);
    }); // prettier-ignore
    follow<object>({ id }, 'metricsUpdated(applicationId: $id) { at cpus memoryBytes probes healthy latencyMs }', (point) => points.push(point)); // prettier-ignore
    follow<Item & { readonly data?: { readonly kind: string } }>({ id: on.workspaceId }, 'inboxUpdated(workspaceId: $id) { __typename ... on Event { data } }', ({ data: told }) => (told ? alerts.push(told.kind) : (begun += 1))); // prettier-ignore
    await until('the streams have begun', async () => begun >= 2, livenessMs);
    expect((await on.createDeployment({ applicationId: id })).__typename).toBe('CreateDeploymentSuccess');
    await until('it is deployed', async () => cards.at(-1)?.phase === 'DEPLOYED', livenessMs);
    await until('it was looked at', async () => points.length > 0, livenessMs);

    // What came is all that there is.
    const last = cards.at(-1);
    const asked = await data<{ node: Card & { logs: { nodes: { text: string }[] } }; application: { metrics: { points: unknown[] } } }>(on.url, `query ($id: ID!, $applicationId: ID!) {
      node(id: $id) { ... on Deployment { ${card} logs(first: 100) { nodes { text } } } }
      application: node(id: $applicationId) { ... on Application { metrics { points { at cpus memoryBytes probes healthy latencyMs } } } } }`, { id: last?.id, applicationId: id }, on.who); // prettier-ignore
    const { logs, ...now } = asked.node;
    expect(last).toEqual(now);
    expect(last).toMatchObject({ status: 'SUCCEEDED', application: { address: await on.address(id) } });
    await until('all of the output has come', async () => lines.length >= logs.nodes.length, livenessMs);
    expect(lines).toEqual(logs.nodes.map(({ text }) => text));
    expect(asked.application.metrics.points).toEqual(expect.arrayContaining(points.slice(0, 1)));
    const seen = cards.map(({ phase }) => phase).filter((phase, index, all) => phase !== all[index - 1]);
    // A phase that had passed when it was told of is not shown for it: what comes is never older than its event.
    const order = ['PENDING', 'SECURITY_SCANNING', 'BUILDING', 'DEPLOYING', 'HEALTH_CHECKING', 'DEPLOYED'];
    expect(order.filter((phase) => seen.includes(phase))).toEqual(seen);
    await on.answer(id, '/exit').catch(() => undefined);
    await until('an alert is told', async () => alerts.includes('deployments.alert'), livenessMs);
    expect(problems).toEqual([]);
    const sorted = latencies.toSorted((a, b) => a - b);
    console.log(`MEASURED ${place.driver}: from the commit to the client, ${sorted.length} events of a deployment: median ${sorted[Math.floor(sorted.length / 2)]} ms, worst ${sorted.at(-1)} ms`); // prettier-ignore
  });

  test('a build that is canceled frees the queue: what waited for it begins', async (context) => {
    const place = await ground(context);
    const on = await team(place.server.url);
    const slow = { scripts: { build: 'echo begun; sleep 600' }, main: 'server.js' };
    const { id, source } = await fresh(on, place, 'blocked', {
      'package.json': JSON.stringify(slow),
      'server.js': serving('never'),
    });
    const first = (await on.createDeployment({ applicationId: id })).deployment?.id ?? '';
    const said = async () => (await on.deployment(first)).logs.nodes.map(({ text }) => text);
    await until('it builds', async () => (await said()).includes('begun'), livenessMs);
    await source.commit({ ...plain, 'server.js': serving('next') });
    const second = (await on.createDeployment({ applicationId: id })).deployment?.id ?? '';
    expect(await on.deployment(second)).toMatchObject({ status: 'QUEUED', phase: 'PENDING' });
    expect((await on.cancel(first)).__typename).toBe('CancelRunSuccess');
    expect(await on.over(first)).toMatchObject({ phase: 'CANCELED', status: 'CANCELED' });
    expect(await on.over(second)).toMatchObject({ phase: 'DEPLOYED', attempt: 1 });
    expect(await on.answer(id)).toBe('next');
  });

  test('a hostile name, branch and content: nothing is run by it, and nothing of the host is told', async (context) => {
    const place = await ground(context);
    const on = await team(place.server.url);
    const canary = path.join(place.folder, `canary-${place.driver}`);
    await writeFile(canary, 'canary of the host', { mode: 0o600 });
    const pwned = path.join(place.folder, `pwned-${place.driver}`);
    const source = await repository(place.folder, `$(touch ${path.basename(pwned)});'"&|<> ${place.driver}`);
    const dir = fileURLToPath(source.url);
    for (const [link, to] of [['config.json', canary], ['up', '../../..'], ['.dockerignore', '/etc/hostname'], ['npm-shrinkwrap.json', canary]] as const) await symlink(to, path.join(dir, link)); // prettier-ignore
    await source.commit(
      { ...plain, 'server.js': readingFrom('config.json'), '-rf .': 'x' },
      `$(touch ${pwned}) \u001b[2J`,
    );
    const branch = `$(touch\${IFS}${pwned})&;'"|<>`;
    await git(dir, 'branch', '-M', branch);
    const id = await on.application({ name: 'hostile', repositoryUrl: pathToFileURL(dir).href, driver: place.driver, branch }); // prettier-ignore
    const over = await on.deploy(id);
    expect([over.phase, over.statusReason]).toEqual(['DEPLOYED', null]);
    // What led out of the tree is not there.
    expect(over.logs.nodes.filter(({ text }) => text.startsWith('Left out the symbolic link'))).toHaveLength(4);
    expect(await on.answer(id)).toBe('ENOENT');
    expect(JSON.stringify(over)).not.toContain('canary of the host');
    expect((await readdir(place.folder)).filter((name) => name.startsWith('pwned'))).toEqual([]);
    expect(await readFile(canary, 'utf8')).toBe('canary of the host');
  });

  test('an application that is deleted: nothing of it runs, lies about or answers', async (context) => {
    const place = await ground(context);
    const on = await team(place.server.url);
    const { id, source } = await fresh(on, place, 'goes', { 'server.js': serving('one') });
    for (const text of ['one', 'two']) {
      await source.commit({ 'server.js': serving(text) });
      expect((await on.deploy(id)).phase).toBe('DEPLOYED');
    }
    const address = await on.address(id);
    expect(await left(place, raw('Application', id))).not.toEqual([]);
    const gone = await mutate(place.server.url, 'deleteApplication', { id }, on.who, 'deletion { id }');
    expect(gone.__typename).toBe('DeleteApplicationSuccess');
    const row = { where: { id: raw('Application', id) } };
    await until('its row is gone', async () => (await place.server.running.app.db.application.count(row)) === 0, livenessMs); // prettier-ignore
    await until('nothing is left', async () => (await left(place, raw('Application', id))).length === 0, livenessMs);
    await expect(fetch(`${address}/`)).rejects.toThrow(/fetch failed/);
  });

  test('a signed push to a real remote: fetched, scanned, built, released, and GitHub is told', async (context) => {
    const place = await ground(context);
    const root = await testFolder();
    const source = await repository(root, 'pushed');
    await source.commit({ ...plain, 'server.js': serving('one') });
    const bare = path.join(root, 'git', 'octo', 'pushed.git');
    await mkdir(path.dirname(bare), { recursive: true });
    await git(root, 'clone', '--quiet', '--bare', path.join(root, 'pushed'), bare);
    const token = 'ghp_ofOctoAndOfNobodyElse';
    const credentials = { username: 'x-access-token', password: token };
    const remote = await startGitHttp(path.join(root, 'git'), { credentials });
    context.onTestFinished(() => remote.close());
    const github = await startGitHub(remote.url, {
      tokens: { [token]: { login: 'octo', scopes: ['repo'] } },
      github: {
        users: [{ login: 'octo', name: 'Octo', email: 'octo@github.example' }],
        repos: [{ owner: 'octo', name: 'pushed', private: true }],
      },
    });
    context.onTestFinished(() => github.close());
    const server = await startTestServer({ ...place.settings, GITHUB_URL: github.url, GITHUB_API_URL: github.url });
    context.onTestFinished(() => server.stop());
    const on = await team(server.url);
    const input = { workspaceId: on.workspaceId, repository: 'octo/pushed', token };
    const made = await mutate(server.url, 'connectRepository', input, on.who, 'webhookSecret connectedRepository { id webhookUrl }'); // prettier-ignore
    const { id: connectedId, webhookUrl } = made['connectedRepository'];
    const applicationId = await on.application({ name: 'pushed', repositoryUrl: `${github.url}/octo/pushed.git`, driver: place.driver }); // prettier-ignore
    const { githubId } = await server.running.app.db.connectedRepository.findUniqueOrThrow({ where: { id: raw('ConnectedRepository', connectedId) } }); // prettier-ignore
    for (const text of ['first', 'second']) {
      const sha = await source.commit({ 'server.js': serving(text) });
      await git(path.join(root, 'pushed'), 'push', '--quiet', bare, 'main');
      const message = push({ id: githubId, fullName: 'octo/pushed' }, sha);
      expect(await deliver(webhookUrl, 'not the secret of the connection', message)).toBe(401);
      expect(await deliver(webhookUrl, made['webhookSecret'], message)).toBe(202);
      await until(`${text} answers`, async () => (await on.answer(applicationId).catch(() => '')) === text, livenessMs);
      const told = () => github.statuses.filter((one) => one.path.endsWith(`/${sha}`)).at(-1)?.state;
      await until('GitHub is told', async () => told() === 'success', livenessMs);
    }
    const over = await server.running.app.db.deployment.findMany({
      where: { applicationId: raw('Application', applicationId) },
      select: { run: { select: { phase: true, trigger: true, steps: { select: { name: true, status: true } } } } },
    });
    expect(over.map(({ run }) => [run.phase, run.trigger])).toEqual([['DEPLOYED', 'WEBHOOK'], ['DEPLOYED', 'WEBHOOK']]); // prettier-ignore
    for (const { run } of over)
      for (const name of ['fetch', 'scan', 'build', 'start', 'health', 'activate'])
        expect(run.steps).toContainEqual({ name, status: 'SUCCEEDED' });
  });
}
