import { once } from 'node:events';
import { request } from 'node:http';
import { connect } from 'node:net';
import { parse } from 'graphql';
import pg from 'pg';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { globalId } from '#kernel/graphql/global-id.ts';
import { Documents } from '#kernel/http/documents.ts';
import { newId } from '#kernel/ids.ts';
import { headersOf } from '../../support/client.ts';
import { until } from '../../support/embedded.ts';
import { bytes, http, keptLog, post, type RawAnswer } from '../../support/http.ts';
import { httpServer } from '../../support/http-server.ts';
import { startTestServer, type TestServer } from '../../support/server.ts';
import { nodeOf, someone, tenant, type Tenant } from '../../support/world.ts';

// What strangers and mistakes send: a typed error, nothing told of the inside, and the server answers on.

const { log, lines } = keptLog();
const maxBodyBytes = 65_536;
let server: TestServer;
let of: Tenant;
let auth: Record<string, string>;

beforeAll(async () => {
  server = await startTestServer(
    {
      SWITCHYARD_ROLES: 'api',
      SWITCHYARD_MAX_BODY_BYTES: String(maxBodyBytes),
      SWITCHYARD_MAX_DEPTH: '8',
      SWITCHYARD_MAX_ALIASES: '5',
      SWITCHYARD_MAX_COST: '500',
      SWITCHYARD_MAX_TOKENS: '300',
      SWITCHYARD_MAX_BATCH: '3',
    },
    { log },
  );
  of = await tenant(server.running.app, 'hostile');
  auth = headersOf(of.owner);
});
afterAll(() => server.stop());
beforeEach(() => {
  lines.length = 0;
  return async () => {
    // Whatever came, the next one is served, and nothing was a fault of the server.
    const next = await post(server.url, { query: '{ viewer { id } }' }, auth);
    const faults = lines.filter(({ level }) => level >= 50);
    if (next.status !== 200 || next.codes.length > 0 || faults.length > 0)
      throw new Error(`Afterwards: ${next.text} ${JSON.stringify(faults)}`);
  };
});

/** The inside has a stack, paths, SQL, libraries: what of it is in an answer; null for nothing. */
const toldOf = ({ text }: RawAnswer): string | null =>
  /node_modules|\.ts\b|\bat \w+ \(|prisma|postgres|SELECT|select .* from|stack/i.exec(text)?.[0] ?? null;

/** What an answer says, and whatever it tells that it should not. */
const said = (answer: RawAnswer) => ({ codes: answer.codes, status: answer.status, told: toldOf(answer) });
const refusal = (code: string, status: unknown = expect.any(Number)) => ({ codes: [code], status, told: null });

describe('bodies', () => {
  const good = JSON.stringify({ query: '{ __typename }' });

  test.each([
    'text/plain',
    'application/x-www-form-urlencoded',
    'multipart/form-data; boundary=x',
    'application/graphql',
    '',
  ])('content type %j', async (type) => {
    const answer = await http(server.url, { headers: type ? { 'content-type': type } : {}, body: good });
    expect(said(answer)).toEqual(refusal('UNSUPPORTED_MEDIA_TYPE', 415));
  });
  test('another charset than UTF-8', async () => {
    expect(said(await post(server.url, good, { 'content-type': 'application/json; charset=utf-16' }))).toEqual(
      refusal('UNSUPPORTED_MEDIA_TYPE', 415),
    );
    const quoted = await post(server.url, good, { 'content-type': 'application/json; charset="UTF-8"' });
    expect(quoted.body).toEqual({ data: { __typename: 'Query' } });
  });
  test('invalid UTF-8', async () => {
    const body = Buffer.concat([
      Buffer.from('{"query":"{ __typename } # '),
      Buffer.from([0xc3, 0x28]),
      Buffer.from('"}'),
    ]);
    expect(said(await post(server.url, body))).toEqual(refusal('BAD_REQUEST', 400));
  });
  test.each([
    ['', 400],
    [' ', 400],
    ['{', 400],
    ['"text"', 400],
    ['1', 400],
    ['null', 400],
    ['{"query":1}', 400],
    ['{"query":"{a}","variables":"x"}', 400],
    ['{"query":"{a}","extensions":1}', 400],
    // Well-formed JSON, and a batch, have the status of an answer, as GraphQL over HTTP has it for application/json.
    ['{}', 200],
    ['[1]', 200],
    ['[null]', 200],
    ['[[]]', 200],
  ])('a body of %j', async (body, status) => {
    expect(said(await post(server.url, body))).toEqual(refusal('BAD_REQUEST', status));
  });
  test('an operation name that is no text names no operation', async () => {
    const answer = await post(server.url, '{"query":"{a}","operationName":1}');
    expect(said(answer)).toEqual(refusal('OPERATION_RESOLUTION_FAILURE', 400));
  });
  test('an empty batch has an empty answer', async () => {
    const { status, text } = await post(server.url, '[]');
    expect([status, text]).toEqual([200, '[]']);
  });
  test('too long by its header', async () => {
    const answer = await bytes(
      server.url,
      `POST /graphql HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 99999999\r\n\r\n`,
    );
    expect(answer).toMatch(/^HTTP\/1.1 413 /);
    expect(answer).toContain('BODY_TOO_LARGE');
  });
  test('too long, with and without a length', async () => {
    const body = JSON.stringify({ query: '{ __typename }', variables: { text: 'x'.repeat(maxBodyBytes) } });
    expect(said(await post(server.url, body, { 'content-length': String(Buffer.byteLength(body)) }))).toEqual(
      refusal('BODY_TOO_LARGE', 413),
    );
    expect(said(await post(server.url, body, { 'transfer-encoding': 'chunked' }))).toEqual(
      refusal('BODY_TOO_LARGE', 413),
    );
  });
  test('without end: the connection is cut after the answer', async () => {
    const sent = request(server.url, { method: 'POST', headers: { 'content-type': 'application/json' } });
    const status = new Promise<number>((resolve) => {
      sent.once('response', (res) => {
        res.resume();
        resolve(res.statusCode ?? 0);
      });
    });
    const closed = once(sent, 'close');
    sent.on('error', () => undefined); // it is cut while this is writing
    const write = () => {
      if (!sent.destroyed) sent.write('x'.repeat(65_536), () => setImmediate(write));
    };
    write();
    expect(await status).toBe(413);
    await closed;
  });
  test('cut off by the client', async () => {
    const { hostname, port } = new URL(server.url);
    const socket = connect(Number(port), hostname);
    await once(socket, 'connect');
    socket.write(
      `POST /graphql HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{"que`,
    );
    socket.resetAndDestroy();
    await once(socket, 'close');
    expect((await post(server.url, good)).status).toBe(200);
  });
});

describe('addresses', () => {
  test.each(['//', '///graphql', '/graphql%', 'http://[', '*'])('%s', async (address) => {
    expect(await bytes(server.url, `GET ${address} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n`)).toMatch(
      /^HTTP\/1.1 4\d\d /,
    );
  });
  test.each(['//', '/elsewhere', 'http://['])('an upgrade to %s', async (address) => {
    const head = `GET ${address} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n`;
    expect(await bytes(server.url, head)).toMatch(/^HTTP\/1.1 4\d\d /);
  });
  test.each(['/storage/../graphql', '//elsewhere/graphql', '/./graphql', '/graphql/../metrics', '\\graphql'])(
    'a path that means another one: %s',
    async (path) => {
      const { hostname, port } = new URL(server.url);
      const asked = request({ host: hostname, port, path, method: 'POST', headers: { ...auth, 'content-type': 'application/json' } }); // prettier-ignore
      asked.end(JSON.stringify({ query: '{ viewer { id } }' }));
      const [answer] = (await once(asked, 'response')) as [import('node:http').IncomingMessage];
      expect(answer.statusCode).toBe(400);
      answer.resume();
      await once(answer, 'end');
    },
  );

  test('methods that GraphQL has not', async () => {
    for (const method of ['PUT', 'DELETE', 'PATCH', 'OPTIONS'])
      expect([405, 204]).toContain((await http(server.url, { method })).status);
  });
  test('a mutation by GET', async () => {
    const answer = await http(`${server.url}?query=${encodeURIComponent('mutation { signOut { __typename } }')}`, {
      method: 'GET',
      headers: { accept: 'application/json' },
    });
    expect(answer.status).toBe(405);
    expect(toldOf(answer)).toBeNull();
  });
  test('variables by GET that are no JSON', async () => {
    const answer = await http(`${server.url}?query={__typename}&variables={`, {
      method: 'GET',
      headers: { accept: 'application/json' },
    });
    expect(answer.codes).toEqual(['BAD_REQUEST']);
    expect(toldOf(answer)).toBeNull();
  });
});

describe('documents', () => {
  const viewer = (inner: string) => `{ viewer { ${inner} } }`;
  const nested = (levels: number): string =>
    levels === 0 ? 'id' : `workspace { memberships { nodes { ${nested(levels - 1)} } } }`;

  test.each([
    ['syntax', '{', 'GRAPHQL_PARSE_FAILED'],
    ['an unknown field', '{ nothing }', 'GRAPHQL_VALIDATION_FAILED'],
    ['a subscription by query', '{ runEvents(id: "x") { __typename } }', 'GRAPHQL_VALIDATION_FAILED'],
    [
      'fragments in a circle',
      '{ ...A } fragment A on Query { ...B } fragment B on Query { ...A }',
      'GRAPHQL_VALIDATION_FAILED',
    ],
    ['a literal of the wrong type', '{ nodes(ids: {a: 1}) { id } }', 'GRAPHQL_VALIDATION_FAILED'],
    ['aliases', viewer(Array.from({ length: 6 }, (_, i) => `a${i}: id`).join(' ')), 'TOO_MANY_ALIASES'],
    ['tokens', viewer('id '.repeat(400)), 'TOO_MANY_TOKENS'],
    ['length', `# ${'x'.repeat(40_000)}\n{ __typename }`, 'DOCUMENT_TOO_LARGE'],
    [
      'depth',
      `{ workspaces(first: 1) { nodes { memberships(first: 1) { nodes { ${nested(3)} } } } } }`.replaceAll(
        'memberships {',
        'memberships(first: 1) {',
      ),
      'TOO_DEEP',
    ],
    ['cost', '{ workspaces(first: 100) { nodes { memberships(first: 100) { nodes { role } } } } }', 'TOO_COSTLY'],
    [
      'cost of ids',
      `query ($ids: [ID!]!) { nodes(ids: $ids) { ... on Workspace { memberships { nodes { role user { name email } } } } } }`,
      'TOO_COSTLY',
    ],
    [
      'cost under a fragment',
      '{ workspaces(first: 100) { ...A } } fragment A on QueryWorkspacesConnection { nodes { runs(first: 100) { nodes { kind } } } }',
      'TOO_COSTLY',
    ],
    ['a text with U+0000', '{ workspace(slug: "a\\u0000") { id } }', 'BAD_USER_INPUT'],
  ])('%s', async (_, query, code) => {
    expect(
      said(await post(server.url, { query, variables: { ids: Array.from({ length: 100 }, () => 'x') } }, auth)),
    ).toEqual(refusal(code));
  });

  test('an operation that is not there', async () => {
    const answer = await post(server.url, {
      query: 'query A { __typename } query B { __typename }',
      operationName: 'C',
    });
    expect(answer.codes).toHaveLength(1);
    expect(toldOf(answer)).toBeNull();
  });

  test('too many fields of one name, or spreads, are refused before they are compared with each other', async () => {
    const own = await httpServer(server.running.app, {
      limits: {
        depth: 12,
        aliases: 30,
        cost: 5000,
        tokens: 2000,
        batch: 10,
        socketsPerActor: 5,
        subscriptionsPerSocket: 9,
      },
    });
    const spreads = Array.from({ length: 210 }, () => '...F').join(' ');
    for (const query of [
      `{ ${'viewer { id } '.repeat(300)} }`,
      `{ viewer { ${spreads} } } fragment F on User { id }`,
      `{ ${'a: viewer { b: id } '.repeat(150)} }`,
    ])
      expect(said(await post(`${own.url}/graphql`, { query }, auth))).toEqual(refusal('TOO_MANY_FIELDS'));
    // What validation has to say ends early, and tells where.
    const wrong = await post(`${own.url}/graphql`, {
      query: `{ ${Array.from({ length: 500 }, (_, i) => `x${i}`).join(' ')} }`,
    });
    const { errors } = wrong.body as { errors: { locations: unknown }[] };
    expect(errors).toHaveLength(11);
    expect(errors[0]?.locations).toEqual([{ line: 1, column: 3 }]);
    await own.close(0);
  });

  test('only those that are good are kept, within bounds', () => {
    const documents = new Documents();
    const read = (source: string, good = true) => {
      const document = parse(source);
      documents.set(source, document);
      if (good) documents.keep(document);
      return document;
    };
    read('{ bad }', false);
    expect(documents.get('{ bad }')).toBeUndefined();
    const kept = read('{ kept }');
    for (let i = 0; i < 600; i++) {
      read(`{ a${i} }`);
      expect(documents.get('{ kept }')).toBe(kept);
    }
    expect([documents.has('{ a99 }'), documents.has('{ a101 }')]).toEqual([false, true]);
    // About a megabyte each: fewer are kept than of small ones.
    const large = (i: number) => `{ ${`b${i} `.repeat(1990)} }`;
    for (let i = 0; i < 60; i++) read(large(i));
    expect([documents.has('{ kept }'), documents.has(large(5)), documents.has(large(59))]).toEqual([
      false,
      false,
      true,
    ]);
  });

  test('fragments that unfold to a huge size are refused before they are unfolded', async () => {
    const parts = Array.from({ length: 20 }, (_, i) => `fragment F${i} on Query { ...F${i + 1} ...F${i + 1} }`).join(
      ' ',
    );
    const answer = await post(
      server.url,
      { query: `{ ...F0 } ${parts} fragment F20 on Query { viewer { id } }` },
      auth,
    );
    expect(said(answer)).toEqual(refusal('TOO_COSTLY'));
  });

  test('the schema under many aliases', async () => {
    const query = `{ a: __schema { types { name } } b: __schema { types { name } } c: __type(name: "Query") { name } }`;
    const answer = await post(server.url, { query });
    expect(answer.codes).toEqual(['TOO_COSTLY']);
    // A field that holds itself again and again.
    const deep =
      '{ __schema { types { fields { type { fields { type { fields { type { fields { name } } } } } } } } } }';
    expect((await post(server.url, { query: deep })).codes).toContain('GRAPHQL_VALIDATION_FAILED');
  });

  test('a batch is bounded', async () => {
    const batch = (length: number) =>
      post(
        server.url,
        Array.from({ length }, () => ({ query: '{ __typename }' })),
      );
    expect((await batch(3)).body).toEqual(Array.from({ length: 3 }, () => ({ data: { __typename: 'Query' } })));
    const answer = await batch(4);
    expect([answer.status, answer.codes]).toEqual([413, ['BAD_REQUEST']]);
    expect(toldOf(answer)).toBeNull();
  });
});

describe('variables', () => {
  const slug = 'query ($slug: String!) { workspace(slug: $slug) { id } }';
  const deep = (levels: number): unknown => Array.from({ length: levels }).reduce((inner) => [inner], 1);
  const create = `mutation ($input: CreateApplicationInput!) { createApplication(input: $input) { __typename } }`;

  test('of the wrong type', async () => {
    expect(said(await post(server.url, { query: slug, variables: { slug: { a: 1 } } }, auth))).toEqual(
      refusal('BAD_USER_INPUT'),
    );
    expect(said(await post(server.url, { query: slug, variables: {} }, auth))).toEqual(refusal('BAD_USER_INPUT'));
  });
  test.each([
    ['DateTime', 'x'],
    ['DateTime', 1e300],
    ['BigInt', 'x'],
    ['BigInt', 1.5],
    ['Role', 'KING'],
  ])('a %s of %j', async (type, value) => {
    const input = { workspaceId: 'x', name: 'x', role: 'VIEWER', expiresAt: null as unknown };
    const [query, variables] =
      type === 'BigInt'
        ? [
            `mutation ($value: BigInt!) { createUpload(input: {workspaceId: "x", name: "x", contentType: "x", sizeBytes: $value, sha256: "x"}) { __typename } }`,
            { value },
          ]
        : [
            `mutation ($input: CreateApiKeyInput!) { createApiKey(input: $input) { __typename } }`,
            { input: type === 'Role' ? { ...input, role: value } : { ...input, expiresAt: value } },
          ];
    expect(said(await post(server.url, { query, variables }, auth))).toEqual(refusal('BAD_USER_INPUT'));
  });
  test('with U+0000 or half a character', async () => {
    for (const text of ['a\0b', '\ud800', '\udc00x']) {
      expect(said(await post(server.url, { query: slug, variables: { slug: text } }))).toEqual(
        refusal('BAD_USER_INPUT'),
      );
      const environment = { [`A${text}`]: 'x' };
      const input = {
        workspaceId: globalId('Workspace', of.id),
        name: 'x',
        repositoryUrl: 'https://example.com/x',
        environment,
      };
      expect(said(await post(server.url, { query: create, variables: { input } }, auth))).toEqual(
        refusal('BAD_USER_INPUT'),
      );
    }
  });
  test('too deep', async () => {
    expect(said(await post(server.url, { query: slug, variables: { slug: deep(40) } }))).toEqual(
      refusal('VARIABLES_TOO_DEEP'),
    );
    // As deep as the body allows, in a place that takes any JSON.
    const text = `${'['.repeat(30_000)}${']'.repeat(30_000)}`;
    const body = `{"query":${JSON.stringify(create)},"variables":{"input":{"workspaceId":"x","name":"x","repositoryUrl":"x","environment":${text}}}}`;
    expect(said(await post(server.url, body, auth))).toEqual(refusal('VARIABLES_TOO_DEEP'));
  });
  test('too many', async () => {
    const statuses = Array.from({ length: 6000 }, () => 'FAILED');
    const query = `query ($statuses: [RunStatus!]) { workspaces { nodes { runs(status: $statuses) { totalCount } } } }`;
    expect(said(await post(server.url, { query, variables: { statuses } }, auth))).toEqual(refusal('TOO_MANY_VALUES'));
  });
  test('many, but not too many', async () => {
    const statuses = Array.from({ length: 4000 }, () => 'FAILED');
    const query = `query ($statuses: [RunStatus!]) { workspaces { nodes { runs(status: $statuses) { totalCount } } } }`;
    expect((await post(server.url, { query, variables: { statuses } }, auth)).codes).toEqual([]);
  });
  test('names that objects have of themselves', async () => {
    const body = `{"query":${JSON.stringify(slug)},"variables":{"slug":"x","__proto__":{"a":1},"constructor":1}}`;
    expect((await post(server.url, body, auth)).body).toEqual({ data: { workspace: null } });
  });
});

describe('ids and cursors', () => {
  const node = 'query ($id: ID!) { node(id: $id) { id } }';
  const encoded = (text: string) => Buffer.from(text).toString('base64');

  test.each([
    'zzz',
    '',
    'x'.repeat(10_000),
    encoded('Query:1'),
    encoded('Workspace:1'),
    encoded('Workspace:'),
    encoded(':'),
    encoded('Nothing:0190b6d0-0000-7000-8000-000000000001'),
    encoded('Release:0190b6d0-0000-7000-8000-000000000001'),
    encoded("Workspace:' or 1=1"),
    encoded('__proto__:0190b6d0-0000-7000-8000-000000000001'),
    encoded('Run:0190b6d0-0000-7000-8000-000000000001'),
  ])('node(id: %j) is null', async (id) => {
    expect((await post(server.url, { query: node, variables: { id } }, auth)).body).toEqual({ data: { node: null } });
  });

  test('nodes gives null for what it does not find, in its place, and takes 100 at most', async () => {
    const id = globalId('Workspace', of.id);
    const query = 'query ($ids: [ID!]!) { nodes(ids: $ids) { id } }';
    const mixed = { ids: ['zzz', id, globalId('Workspace', newId()), id] };
    expect((await post(server.url, { query, variables: mixed }, auth)).body).toEqual({
      data: { nodes: [null, { id }, null, { id }] },
    });
    const many = { ids: Array.from({ length: 101 }, () => id) };
    expect(said(await post(server.url, { query, variables: many }, auth))).toEqual(refusal('VALIDATION_ERROR'));
  });

  test('an id of another type, or none, in a mutation is NotFound', async () => {
    const query = 'mutation ($input: StopApplicationInput!) { stopApplication(input: $input) { __typename } }';
    for (const id of [
      'zzz',
      '',
      encoded('Application:1'),
      globalId('Workspace', of.id),
      await nodeOf(server.running.app, of, 'Deployment'),
    ]) {
      const answer = await post(server.url, { query, variables: { input: { id } } }, auth);
      expect(answer.body).toEqual({ data: { stopApplication: { __typename: 'NotFound' } } });
    }
  });

  test('an id that is no global one is looked at too', async () => {
    const applicationId = await nodeOf(server.running.app, of, 'Application');
    const query = 'mutation ($input: RollbackDeploymentInput!) { rollbackDeployment(input: $input) { __typename } }';
    const answer = await post(server.url, { query, variables: { input: { applicationId, releaseId: 'zzz' } } }, auth);
    expect(answer.body).toEqual({ data: { rollbackDeployment: { __typename: 'NotFound' } } });
  });

  test.each([
    'zzz',
    '',
    encoded('GPC:S:zzz'),
    encoded('GPC:N:1'),
    encoded('GPC:'),
    encoded('GPC:J:{'),
    encoded('GPC:J:["a"]'),
  ])('a cursor of %j', async (after) => {
    const query = `query ($after: String) { workspaces(after: $after) { nodes { id } } }`;
    const answer = await post(server.url, { query, variables: { after } }, auth);
    expect(said(answer)).toEqual(refusal('BAD_USER_INPUT'));
  });

  test.each(['first: -1', 'last: -1', 'first: 2147483648'])('a page of %s', async (args) => {
    const answer = await post(server.url, { query: `{ workspaces(${args}) { nodes { id } } }` }, auth);
    expect(answer.codes).toHaveLength(1);
    expect(answer.codes[0]).toMatch(/^(BAD_USER_INPUT|GRAPHQL_VALIDATION_FAILED)$/);
    expect(toldOf(answer)).toBeNull();
  });

  test('the cursor of a stream', async () => {
    const id = await nodeOf(server.running.app, of, 'Deployment');
    const query = `query ($id: ID!, $after: String) { node(id: $id) { ... on Deployment { events(first: 1, after: $after) { endCursor } } } }`;
    for (const after of [
      'zzz',
      Buffer.from('["x",1,"1"]').toString('base64url'),
      Buffer.from(`["${newId()}",1,"1"]`).toString('base64url'),
      Buffer.from(`["${of.id}",1,"9999999999999999999"]`).toString('base64url'),
    ])
      expect(said(await post(server.url, { query, variables: { id, after } }, auth))).toEqual(
        refusal('VALIDATION_ERROR'),
      );
  });
});

describe('credentials', () => {
  const query = '{ viewer { id } }';
  test.each([
    { authorization: 'Bearer x' },
    { authorization: 'Basic eDp5' },
    { authorization: `Bearer ${'x'.repeat(8000)}` },
    { authorization: 'Bearer sy_unknown' },
    { 'x-api-key': 'sy_unknown' },
    { 'x-api-key': 'é' },
  ])('that are not good: %j', async (headers) => {
    const answer = await post(server.url, { query }, headers);
    expect([answer.codes, (answer.body as { data?: unknown }).data ?? null]).toEqual([['UNAUTHENTICATED'], null]);
    const strict = await post(server.url, { query }, { ...headers, accept: 'application/graphql-response+json' });
    expect(strict.status).toBe(401);
    expect(toldOf(answer)).toBeNull();
  });
  test('a batch with a bad one is refused as a whole', async () => {
    const answer = await post(server.url, [{ query }, { query }], { 'x-api-key': 'sy_unknown' });
    expect(new Set(answer.codes)).toEqual(new Set(['UNAUTHENTICATED']));
  });
  test('of somebody who is gone', async () => {
    const ghost = await someone(server.running.app);
    await server.running.app.db.user.delete({ where: { id: ghost.id } });
    expect((await post(server.url, { query }, headersOf(ghost))).codes).toEqual(['UNAUTHENTICATED']);
  });
});

describe('many at once', () => {
  test('one who waits in the database with many operations leaves its connections to others', async () => {
    const [busy, other] = [await tenant(server.running.app, 'busy'), await someone(server.running.app)];
    const [holder, watcher] = [new pg.Client(server.database.url), new pg.Client(server.database.url)];
    await Promise.all([holder.connect(), watcher.connect()]);
    let changes: Promise<RawAnswer[]> = Promise.resolve([]);
    try {
      await holder.query('begin');
      await holder.query('select 1 from workspace where id = $1 for update', [busy.id]);
      const change = {
        query: `mutation ($id: ID!) { updateWorkspace(input: { id: $id, name: "Busy" }) { __typename } }`,
        variables: { id: globalId('Workspace', busy.id) },
      };
      changes = Promise.all(Array.from({ length: 30 }, () => post(server.url, change, headersOf(busy.owner))));
      const waiting = async (): Promise<number> => {
        // By a connection of its own: in a transaction one sees the activity of its first look.
        const { rows } = await watcher.query<{ n: number }>(
          `select count(*)::int n from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'`,
        );
        return rows[0]?.n ?? 0;
      };
      await until('some of them wait', async () => (await waiting()) >= 4, 60_000);
      // The pool has ten connections: with all of them waiting, nobody would be answered.
      expect((await post(server.url, { query: '{ viewer { id } }' }, headersOf(other))).codes).toEqual([]);
      expect(await waiting()).toBe(4);
    } finally {
      await Promise.all([holder.end(), watcher.end()]);
    }
    expect((await changes).map(({ text }) => text)).toEqual(
      Array.from({ length: 30 }, () => '{"data":{"updateWorkspace":{"__typename":"UpdateWorkspaceSuccess"}}}'),
    );
  });

  test('the variables of a stream are held with it, so they are small', async () => {
    const query = `subscription ($id: ID!, $filter: EventFilter) { workspaceEvents(workspaceId: $id, filter: $filter) { __typename } }`;
    const variables = { id: globalId('Workspace', of.id), filter: { types: ['x'.repeat(20_000)] } };
    const answer = await post(server.url, { query, variables }, { ...auth, accept: 'text/event-stream' });
    expect(answer.text).toContain('VARIABLES_TOO_LARGE');
  });
});

describe('names that JavaScript knows', () => {
  const send = (body: string) =>
    http(server.url, { method: 'POST', headers: { 'content-type': 'application/json', ...auth }, body });
  const query = 'query ($id: ID!) { node(id: $id) { id } }';
  const polluted =
    '"__proto__":{"polluted":true,"query":"{ no }","variables":{"id":"x"}},"constructor":{"prototype":{"polluted":true}}';
  const answered = (id: string) => `{"data":{"node":{"id":"${id}"}}}`;
  const untouched = () => {
    expect(Object.keys(Object.prototype)).toEqual([]);
    expect(({} as { polluted?: unknown }).polluted).toBeUndefined();
  };

  test('mean nothing in a body, in variables and in extensions', async () => {
    const id = globalId('Workspace', of.id);
    const text = JSON.stringify(query);
    const given = `"variables":{"id":"${id}",${polluted}}`;
    expect(await send(`{"query":${text},${given}}`)).toMatchObject({ text: answered(id) });
    expect(await send(`{"query":${text},${given},"extensions":{${polluted}}}`)).toMatchObject({ text: answered(id) });
    // Without one of its own a request has no document, whatever it inherits.
    expect(await send(`{${polluted}}`)).toMatchObject({ status: 400 });
    expect(await send(`{"query":${text},"variables":{"__proto__":{"id":"${id}"}}}`)).toMatchObject({
      codes: ['BAD_USER_INPUT'],
    });
    // And of several at once each is by itself.
    const batch = await send(`[{"query":${text},${given}},{"query":"{ __typename }",${given}}]`);
    expect(JSON.parse(batch.text)).toMatchObject([{ data: { node: { id } } }, { data: { __typename: 'Query' } }]);
    untouched();
  });

  test('mean nothing over a socket', async () => {
    const id = globalId('Workspace', of.id);
    const socket = new WebSocket(server.url.replace('http', 'ws'), 'graphql-transport-ws');
    const said: string[] = [];
    socket.addEventListener('message', ({ data }) => said.push(String(data)));
    await once(socket, 'open');
    const initial = JSON.stringify(auth).slice(1, -1);
    socket.send(`{"type":"connection_init","payload":{${initial},${polluted}}}`);
    await until('it is known', async () => said.length === 1);
    socket.send(
      `{"id":"1","type":"subscribe","payload":{"query":${JSON.stringify(query)},"variables":{"id":"${id}",${polluted}},"extensions":{${polluted}}}}`,
    );
    await until('it is answered', async () => said.length === 3);
    socket.close();
    expect(JSON.parse(said[1] ?? '')).toMatchObject({ type: 'next', payload: { data: { node: { id } } } });
    untouched();
  });

  test('are refused in an input that has no such field, and kept where anything may be', async () => {
    const save =
      'mutation ($input: SaveUserStateInput!) { then: saveUserState(input: $input) { __typename ... on SaveUserStateSuccess { then: state { then: value } } } }';
    const value = '{"__proto__":{"a":[{"__proto__":1}]},"constructor":{"prototype":null},"toString":"x","then":1}';
    const body = (more: string) =>
      `{"query":${JSON.stringify(save)},"variables":{"input":{"value":${value},"expectedVersion":0${more}}}}`;
    const wrong = body(',"__proto__":{"expectedVersion":1}');
    const refused = await send(wrong);
    expect(said(refused)).toEqual(refusal('BAD_USER_INPUT'));
    // The executor that the alias needs tells the same as the other one.
    const { status, text } = await send(wrong.replaceAll('then: ', ''));
    expect({ status, text }).toEqual({ status: refused.status, text: refused.text });
    const kept = await send(body(''));
    expect(kept.codes).toEqual([]);
    const { then } = (JSON.parse(kept.text) as { data: { then: { then: { then: object } } } }).data;
    expect(new Map(Object.entries(then.then.then))).toEqual(new Map(Object.entries(JSON.parse(value) as object)));
    untouched();
  });
});
