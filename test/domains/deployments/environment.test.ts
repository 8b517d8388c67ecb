import { readdir, readFile, rm } from 'node:fs/promises';
import path from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { member, person, type Person } from '../../support/actors.ts';
import { data, send } from '../../support/client.ts';
import { dump } from '../../support/dump.ts';
import { until } from '../../support/embedded.ts';
import { startTestServer, testFolder, type TestServer } from '../../support/server.ts';
import { keyOf } from '../../support/world.ts';
import { answering, asProcess, livenessMs, plain, raw, repository, team, type Team } from './harness.ts';

let server: TestServer;
let folder: string;
let on: Team;
beforeAll(async () => {
  folder = await testFolder();
  server = await startTestServer();
  on = await team(server.url);
});
afterAll(async () => {
  await server.stop();
  await rm(folder, { recursive: true, force: true });
});

interface Answer {
  readonly __typename: string;
  readonly code?: string;
  readonly version?: number;
  readonly currentVersion?: number;
  readonly issues?: readonly { readonly path: string; readonly message: string }[];
}

const said = `__typename ... on ValidationError { issues { path message } } ... on EnvironmentConflict { currentVersion } ... on Error { code }`;

async function change(verb: 'set' | 'unset', input: object, who: Person = on.who): Promise<Answer> {
  const name = `${verb === 'set' ? 'Set' : 'Unset'}EnvironmentVariables`;
  const field = `${verb}EnvironmentVariables`;
  const answer = await data<Record<string, Answer>>(
    server.url,
    `mutation ($input: ${name}Input!) { ${field}(input: $input) { ... on ${name}Success { version } ${said} } }`,
    { input },
    who,
  );
  return answer[field] as Answer;
}

interface Environment {
  readonly version: number;
  readonly variables: readonly { readonly name: string; readonly value: string | null; readonly sensitive: boolean }[];
  readonly versions: readonly { readonly version: number; readonly createdBy: { readonly id: string } | null }[];
}

async function environment(id: string, who: Person = on.who, version: number | null = null) {
  const { node } = await data<{ node: { environment: Environment | null } | null }>(
    server.url,
    `query ($id: ID!, $version: Int) { node(id: $id) { ... on Application { environment(version: $version) {
      version variables { name value sensitive version setBy { id } } versions { version createdBy { id } } } } } }`,
    { id, version },
    who,
  );
  return node?.environment;
}

const nowhere = (name: string, more: object = {}) =>
  on.application({ name, repositoryUrl: 'https://example.com/repository.git', ...more });

/** Files below a folder that hold a text. */
async function filesWith(dir: string, text: string): Promise<string[]> {
  const found: string[] = [];
  for (const entry of await readdir(dir, { withFileTypes: true, recursive: true })) {
    if (!entry.isFile()) continue;
    const file = path.join(entry.parentPath, entry.name);
    if ((await readFile(file).catch(() => '')).includes(text)) found.push(file);
  }
  return found;
}

test('a variable is not lost for its name: one that objects do not keep is refused', async () => {
  const id = await nowhere('names', { environment: { constructor: 'a', toString: 'b', hasOwnProperty: 'c' } });
  expect((await environment(id))?.variables.map(({ name }) => name)).toEqual([
    'constructor',
    'hasOwnProperty',
    'toString',
  ]);
  const refused = { __typename: 'ValidationError' };
  const variables = [{ name: '__proto__', value: 'x' }];
  expect(await change('set', { applicationId: id, variables, expectedVersion: 1 })).toMatchObject(refused);
  const input = `{ applicationId: "${id}", enabled: true, environment: { __proto__: "x", A: "a" } }`;
  const { setPreviewPolicy } = await data<{ setPreviewPolicy: { issues: object[] } }>(
    server.url,
    `mutation { setPreviewPolicy(input: ${input}) { __typename ... on ValidationError { issues { path } } } }`,
    {},
    on.who,
  );
  expect(setPreviewPolicy).toEqual({ ...refused, issues: [{ path: 'environment.__proto__' }] });
});

test('changes are atomic and versioned; what is sensitive is never told, the rest to those who may change it', async () => {
  const id = await nowhere('versions', { environment: { FIRST: 'value of the first' } });
  expect(await environment(id)).toMatchObject({
    version: 1,
    variables: [{ name: 'FIRST', value: null, sensitive: true }],
  });
  const two = [
    { name: 'OPEN', value: 'said aloud', sensitive: false },
    { name: 'CLOSED', value: 'not said at all' },
  ];
  expect(await change('set', { applicationId: id, variables: two, expectedVersion: 1 })).toMatchObject({ version: 2 });
  const now = {
    version: 2,
    variables: [
      { name: 'CLOSED', value: null, sensitive: true, version: 2, setBy: { id: on.who.id } },
      { name: 'FIRST', value: null, sensitive: true, version: 1 },
      { name: 'OPEN', value: 'said aloud', sensitive: false, version: 2 },
    ],
  };
  expect(await environment(id)).toMatchObject(now);
  // Too late, or wrong in one of two: nothing happens.
  const other = { applicationId: id, variables: [{ name: 'X', value: 'x' }], expectedVersion: 1 };
  expect(await change('set', other)).toMatchObject({ __typename: 'EnvironmentConflict', currentVersion: 2 });
  for (const bad of [
    { name: 'LD_PRELOAD', value: 'x' },
    { name: 'A-B', value: 'x' },
    { name: 'CLOSED', value: 'x'.repeat(32_769) },
    { name: 'GOOD', value: 'twice' },
  ]) {
    const refused = await change('set', { applicationId: id, variables: [{ name: 'GOOD', value: 'x' }, bad] });
    expect(refused).toMatchObject({ __typename: 'ValidationError' });
  }
  expect(await environment(id)).toMatchObject(now);
  // A member reads what is not sensitive, a viewer nothing, a stranger finds nothing.
  const [a, viewer, stranger] = [
    await member(server.url, on.who, on.workspaceId, 'MEMBER'),
    await member(server.url, on.who, on.workspaceId, 'VIEWER'),
    await person(server.url),
  ];
  expect(await environment(id, a)).toMatchObject({ variables: [{}, {}, { value: 'said aloud' }] });
  expect(await environment(id, viewer)).toBeNull();
  expect(await environment(id, stranger)).toBeUndefined();
  const mine = { applicationId: id, variables: [{ name: 'X', value: 'x' }] };
  expect(await change('set', mine, viewer)).toMatchObject({ code: 'FORBIDDEN' });
  expect(await change('set', mine, stranger)).toMatchObject({ code: 'NOT_FOUND' });
  expect(await change('unset', { applicationId: id, names: ['OPEN'] }, stranger)).toMatchObject({ code: 'NOT_FOUND' });
  expect(await change('unset', { applicationId: id, names: ['FIRST', 'NEVER'] }, a)).toMatchObject({ version: 3 });
  expect(await change('unset', { applicationId: id, names: ['FIRST'] }, a)).toMatchObject({ version: 3 });
  // Nothing ran with the first two: only the present one is kept.
  expect(await environment(id)).toMatchObject({ version: 3, versions: [{ version: 3, createdBy: { id: a.id } }] });
  expect(await server.running.app.db.environmentVariable.count({ where: { name: 'FIRST' } })).toBe(0);
  const text = await dump(server.database.url);
  for (const value of ['value of the first', 'said aloud', 'not said at all']) {
    expect(text).not.toContain(value);
    expect(text).not.toContain(Buffer.from(value).toString('base64').slice(0, 14));
  }
});

test('of writers at once that saw the same version one succeeds; without a version all do, one after the other', async () => {
  const id = await nowhere('writers');
  const all = (more: object) =>
    Promise.all(
      Array.from({ length: 5 }, (_, n) =>
        change('set', { applicationId: id, variables: [{ name: `V${n}`, value: `${n}` }], ...more }),
      ),
    );
  const first = await all({ expectedVersion: 0 });
  expect(first.filter(({ version }) => version === 1)).toHaveLength(1);
  expect(first.filter(({ currentVersion }) => currentVersion === 1)).toHaveLength(4);
  expect((await all({})).map(({ version }) => version).toSorted((a = 0, b = 0) => a - b)).toEqual([2, 3, 4, 5, 6]);
  expect((await environment(id))?.variables).toHaveLength(5);
});

test('a value of the wrong kind is refused without telling it', async () => {
  const id = await nowhere('echo');
  for (const value of [1_234_567_891, ['hidden-in-a-list'], { deep: 'hidden-in-an-object' }]) {
    const answer = await send(
      server.url,
      `mutation ($value: Secret!, $id: ID!) { setEnvironmentVariables(input: { applicationId: $id, variables: [{ name: "A", value: $value }] }) { __typename ... on ValidationError { issues { path message } } } }`,
      { value, id },
      on.who,
    );
    const text = JSON.stringify(answer);
    expect(text).toContain('variables.0.value');
    expect(text).not.toMatch(/1234567891|hidden-in/);
  }
});

const sealedValue = 'gold-Fish/42+under=the sea';
const long = 'x'.repeat(7_990);
/** Tells its secret in every way that it knows, and never gets healthy when it is told so. */
const talkative = `
const { createServer } = require('node:http');
const secret = process.env.MOST_SECRET;
const other = Buffer.from(secret).toString('base64');
console.log('instance says ' + secret + ' and ' + other + ' and ' + encodeURIComponent(secret) + ' and ' + JSON.stringify({ secret }));
process.stderr.write('in parts ' + secret.slice(0, 9));
setTimeout(() => { process.stderr.write(secret.slice(9) + '\\n'); console.log('${long}' + secret + ' far behind'); }, 50);
createServer((request, response) => {
  response.statusCode = process.env.BROKEN ? 500 : 200;
  response.end((process.env.BROKEN ? 'y'.repeat(1990) : 'running with ') + secret);
}).listen(Number(process.env.PORT), '127.0.0.1');
`;

test('an execution has the values, and nothing else shows them; a rollback runs with those of its release', async () => {
  const source = await repository(folder, 'talkative');
  await source.commit({ ...plain, 'server.js': talkative });
  const id = await on.application({
    name: 'talkative',
    repositoryUrl: source.url,
    buildCommand: 'echo "build says $MOST_SECRET"; printf %s "$MOST_SECRET" | base64; echo "open is $OPEN"',
    environment: { MOST_SECRET: sealedValue },
    healthTimeoutS: 3,
  });
  await change('set', { applicationId: id, variables: [{ name: 'OPEN', value: 'for all to see', sensitive: false }] });
  const done = await on.deploy(id);
  expect(done).toMatchObject({ phase: 'DEPLOYED' });
  expect(await on.answer(id)).toBe(`running with ${sealedValue}`);
  const texts = done.logs.nodes.map(({ text }) => text);
  expect(texts).toContain('build says [redacted]');
  expect(texts).toContain('open is for all to see');

  // Another version, with which it does not get healthy; then it is as it was.
  const second = 'silver-Fish/43+under=the moon';
  await change('set', { applicationId: id, variables: [{ name: 'MOST_SECRET', value: second }, { name: 'BROKEN', value: 'yes' }] }); // prettier-ignore
  const failed = await on.deploy(id);
  expect(failed).toMatchObject({ phase: 'ROLLED_BACK' });
  expect(JSON.stringify(failed.healthEvidence)).toContain('[redacted]');
  expect(JSON.stringify(failed)).not.toMatch(/silver-Fish|under%3D/);
  await change('unset', { applicationId: id, names: ['BROKEN'] });
  expect(await on.deploy(id)).toMatchObject({ phase: 'DEPLOYED' });
  expect(await on.answer(id)).toBe(`running with ${second}`);
  const versionOf = async (deployment: string) =>
    (await server.running.app.db.deployment.findUniqueOrThrow({ where: { id: raw('Run', deployment) } })).environmentVersion; // prettier-ignore
  expect(await versionOf(done.id)).toBe(2);
  const back = await on.over((await on.rollback({ applicationId: id })).deployment?.id ?? '');
  expect(back).toMatchObject({ phase: 'DEPLOYED', restores: { id: done.release?.id } });
  expect(await versionOf(back.id)).toBe(2);
  expect(await on.answer(id)).toBe(`running with ${sealedValue}`);
  expect((await environment(id))?.versions.map(({ version }) => version)).toEqual([4, 3, 2]);
  // What an old one had is there as long as something ran with it.
  expect((await environment(id, on.who, 2))?.variables.map(({ name }) => name)).toEqual(['MOST_SECRET', 'OPEN']);
  expect(await environment(id, on.who, 1)).toBeNull();

  // The agent starts it again with the same values.
  const { pid } = asProcess(
    await server.running.app.db.release.findFirstOrThrow({ where: { activeOf: { id: raw('Application', id) } } }),
  );
  if (pid === null) throw new Error('nothing runs');
  process.kill(-pid, 'SIGKILL');
  await until(
    'it answers again',
    async () => (await on.answer(id).catch(() => '')) === `running with ${sealedValue}`,
    livenessMs,
  );

  const text = await dump(server.database.url);
  const shared = path.join(server.env['SWITCHYARD_SHARED_DIR'] ?? '', 'host');
  for (const value of [sealedValue, second]) {
    for (const form of [value, Buffer.from(value).toString('base64'), encodeURIComponent(value)])
      expect(text).not.toContain(form);
    expect(await filesWith(server.stateDir, value)).toEqual([]);
    // Nowhere but in what it writes itself.
    const written = (await filesWith(shared, value)).filter((file) => !/\.log(\.1)?$/.test(file));
    expect(written).toEqual([]);
  }
});

test('an instance and a build show the values to no list of processes', async () => {
  const source = await repository(folder, 'arguments');
  await source.commit({ ...plain, 'server.js': answering('here') });
  const value = 'never-an-argument-of-a-process';
  const id = await on.application({
    name: 'arguments',
    repositoryUrl: source.url,
    // What every process of the machine was started with.
    buildCommand:
      'for file in /proc/[0-9]*/cmdline; do tr "\\0" " " < $file; echo; done | grep -c "[n]ever-an-arg" || true',
    environment: { HERE: value },
  });
  // The second build looks at the instance that serves, too.
  for (const _ of ['build', 'instance']) {
    const done = await on.deploy(id);
    expect(done).toMatchObject({ phase: 'DEPLOYED' });
    expect(done.logs.nodes.filter(({ step, stream }) => step === 'build' && stream === 'STDOUT').map(({ text }) => text)).toEqual(['0']); // prettier-ignore
  }
});

test('a key that is for an application alone is not for its environment', async () => {
  const id = await nowhere('scoped', { environment: { THERE: 'x' } });
  const of = { id: raw('Workspace', on.workspaceId), marker: 'scoped' };
  const key = (...verbs: string[]) =>
    keyOf(server.running.app, of, raw('User', on.who.id), 'MEMBER', { scopes: verbs.map((v) => `deployments.${v}`) });
  const alone = await key('createApplication', 'updateApplication');
  const setter = await key('createApplication', 'updateApplication', 'setEnvironmentVariables');
  const unsetter = await key('updateApplication', 'unsetEnvironmentVariables');
  const mutate = async (verb: 'create' | 'update', input: object, by: typeof alone) => {
    const name = `${verb === 'create' ? 'Create' : 'Update'}Application`;
    const query = `mutation ($input: ${name}Input!) { done: ${verb}Application(input: $input) { __typename } }`;
    return (await data<{ done: { __typename: string } }>(server.url, query, { input }, by)).done.__typename;
  };
  const update = (environment: object, by: typeof alone) => mutate('update', { id, environment }, by);
  expect(await update({ THERE: 'y' }, alone)).toBe('Forbidden');
  expect(await update({ THERE: null }, alone)).toBe('Forbidden');
  expect(await update({ THERE: null }, setter)).toBe('Forbidden');
  expect(await update({ THERE: null, NEW: 'x' }, unsetter)).toBe('Forbidden');
  expect(await environment(id)).toMatchObject({ version: 1 });
  expect(await update({}, alone)).toBe('UpdateApplicationSuccess');
  expect(await update({ NEW: 'x' }, setter)).toBe('UpdateApplicationSuccess');
  expect(await update({ THERE: null }, unsetter)).toBe('UpdateApplicationSuccess');
  expect(await environment(id)).toMatchObject({ version: 3, variables: [{ name: 'NEW' }] });
  const fresh = (name: string) => ({
    workspaceId: on.workspaceId,
    name,
    repositoryUrl: 'https://example.com/repository.git',
  });
  expect(await mutate('create', { ...fresh('with'), environment: { A: 'x' } }, alone)).toBe('Forbidden');
  expect(await mutate('create', { ...fresh('with'), environment: { A: 'x' } }, setter)).toBe(
    'CreateApplicationSuccess',
  );
  expect(await mutate('create', fresh('without'), alone)).toBe('CreateApplicationSuccess');
});
