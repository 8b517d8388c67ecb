import { argon2Sync, randomBytes, randomUUID } from 'node:crypto';
import type { Role } from '#prisma';
import type { App } from '#kernel/app.ts';
import { system, type SignInMethod } from '#kernel/auth/actor.ts';
import { Sessions, SessionSettings } from '#kernel/auth/sessions.ts';
import { newApiKey, newToken, sha256Hex } from '#kernel/crypto.ts';
import { newId } from '#kernel/ids.ts';
import { globalId } from '#kernel/graphql/global-id.ts';
import { runKind } from '#kernel/runs/kinds.ts';
import { Sealing } from '#kernel/sealing/sealing.ts';
import type { Auth } from './client.ts';

/** A workspace made of rows, not by verbs, so that tests can have what no verb makes. */
export interface Tenant {
  readonly id: string;
  readonly slug: string;
  /** In every text of the tenant's rows that a person may write. */
  readonly marker: string;
  readonly owner: Someone;
  readonly hostId: string;
}

/** A person who is signed in. */
export interface Someone extends Auth {
  readonly id: string;
  readonly token: string;
}

/** Everybody's password. */
export const password = 'a password that is theirs';
/** Its hash, at next to no cost: the walk proves it some hundred times. What hashes cost is tested where they are made. */
const passwordHash = (() => {
  const nonce = randomBytes(16);
  const hash = argon2Sync('argon2id', {
    message: password,
    nonce,
    parallelism: 1,
    tagLength: 32,
    memory: 8,
    passes: 1,
  });
  const text = (bytes: Buffer): string => bytes.toString('base64').replaceAll('=', '');
  return `$argon2id$v=19$m=8,t=1,p=1$${text(nonce)}$${text(hash)}`;
})();

/** How somebody is signed in: by their password, unless something else is said. */
export interface SignedInBy {
  readonly name?: string;
  readonly method?: SignInMethod;
  readonly ssoConnectionId?: string;
  readonly endedAt?: Date;
  readonly expiresAt?: Date;
}

/** New signed-in people, in two statements for all of them. Nothing in the log tells of it. */
export async function people(app: App, made: readonly SignedInBy[]): Promise<Someone[]> {
  const { tokens, ttlS } = app.use(SessionSettings);
  const end = new Date(Math.floor(Date.now() / 1000 + ttlS) * 1000);
  const all = await Promise.all(
    made.map(async ({ name = 'Somebody', method = 'PASSWORD', ssoConnectionId, endedAt, expiresAt = end }) => {
      const [id, sessionId] = [newId(), newId()];
      // A token that has ended says so itself, too; the row is what is asked here.
      const token = await tokens.issue({ userId: id, sessionId, expiresAt: end });
      const session = { id: sessionId, userId: id, method, expiresAt, ssoConnectionId, endedAt };
      return { user: { id, name, email: `${id}@example.com`, passwordHash }, session, token };
    }),
  );
  await app.db.user.createMany({ data: all.map(({ user }) => user) });
  await app.db.session.createMany({
    data: all.map(({ session: { ssoConnectionId = null, endedAt = null, ...session } }) => ({
      ...session,
      ssoConnectionId,
      endedAt,
    })),
  });
  return all.map(({ user, token }) => ({ id: user.id, token }));
}

/** A new signed-in person. */
export async function someone(app: App, name = 'Somebody'): Promise<Someone> {
  return only(await people(app, [{ name }]));
}

const only = <T>([one]: readonly T[]): T => {
  if (one === undefined) throw new Error('nothing was made');
  return one;
};

/** New signed-in people, each with a role in a workspace, in three statements for all of them. */
export async function membersOf(
  app: App,
  made: readonly (SignedInBy & { readonly of: Pick<Tenant, 'id'>; readonly role: Role })[],
): Promise<Someone[]> {
  const all = await people(app, made);
  await app.db.membership.createMany({
    data: made.map(({ of, role }, i) => ({ id: newId(), workspaceId: of.id, userId: all[i]?.id ?? '', role })),
  });
  return all;
}

/** A new person with a role in a workspace. */
export async function memberOf(app: App, of: Pick<Tenant, 'id'>, role: Role, name?: string): Promise<Someone> {
  return only(await membersOf(app, [{ of, role, ...(name === undefined ? {} : { name }) }]));
}

interface KeyLike {
  readonly of: Pick<Tenant, 'id' | 'marker'>;
  readonly createdById: string;
  readonly role: Role;
  readonly scopes?: string[];
  readonly expiresAt?: Date;
  readonly revokedAt?: Date;
}

/** New keys of workspaces, in one statement. */
export async function keysOf(app: App, made: readonly KeyLike[]): Promise<(Auth & { id: string })[]> {
  const all = made.map((one) => ({ ...one, id: newId(), key: newApiKey() }));
  await app.db.apiKey.createMany({
    data: all.map(({ of, key, scopes = ['*'], ...row }) => ({
      ...row,
      scopes,
      workspaceId: of.id,
      name: of.marker,
      prefix: key.prefix,
      keyHash: key.hash,
    })),
  });
  return all.map(({ id, key }) => ({ id, apiKey: key.key }));
}

/** A new key of a workspace, made by this person. */
export async function keyOf(
  app: App,
  of: Pick<Tenant, 'id' | 'marker'>,
  createdById: string,
  role: Role,
  more: { scopes?: string[]; expiresAt?: Date; revokedAt?: Date } = {},
): Promise<Auth & { id: string }> {
  return only(await keysOf(app, [{ of, createdById, role, ...more }]));
}

/** A new invitation of a workspace, and its token, which no row has. */
export async function invitationOf(
  app: App,
  of: Pick<Tenant, 'id' | 'owner'>,
  role: Role = 'VIEWER',
  email = `${newId()}@example.com`,
): Promise<{ id: string; token: string; email: string }> {
  const { token, hash } = newToken();
  const id = newId();
  const expiresAt = new Date(Date.now() + 3_600_000);
  await app.db.invitation.create({
    data: { id, workspaceId: of.id, email, role, invitedById: of.owner.id, tokenHash: hash, expiresAt },
  });
  return { id, token, email };
}

/** New workspaces with an owner and a host each, and nothing else, in a few statements for all of them. */
export async function tenants(app: App, names: readonly string[]): Promise<Tenant[]> {
  const all = names.map((name) => {
    const marker = `${name}-${randomBytes(6).toString('hex')}`;
    return { id: newId(), marker, slug: marker.toLowerCase(), hostId: newId() };
  });
  const soon = new Date(Date.now() + 3_600_000);
  await app.db.workspace.createMany({ data: all.map(({ id, slug, marker }) => ({ id, slug, name: marker })) });
  await app.db.eventHead.createMany({ data: all.map(({ id }) => ({ workspaceId: id })) });
  await app.db.host.createMany({
    data: all.map(({ hostId, marker }) => ({
      id: hostId,
      name: marker,
      lastSeenAt: soon,
      agentId: newId(),
      agentUntil: soon,
    })),
  });
  const owners = await membersOf(
    app,
    all.map((of) => ({ of, role: 'OWNER', name: of.marker })),
  );
  return all.map((one, i) => ({ ...one, owner: only(owners.slice(i)) }));
}

/** A new workspace with an owner and a host, and nothing else. */
export const tenant = async (app: App, name: string): Promise<Tenant> => only(await tenants(app, [name]));

/** What the DNS must say of every domain that is made here. */
export const domainChallenge = 'switchyard=challenge';

/**
 * Makes a row of a type that implements Node in a workspace, with whatever hangs on it, and gives its row id. A type
 * that has no entry fails the tests that walk the schema.
 */
export const rowOf: Readonly<Record<string, (app: App, of: Tenant) => Promise<string>>> = {
  Workspace: async (_, of) => of.id,
  User: async (app, of) => (await memberOf(app, of, 'VIEWER', of.marker)).id,
  Membership: async (app, of) => {
    const { id } = await someone(app, of.marker);
    const membership = { id: newId(), workspaceId: of.id, userId: id, role: 'VIEWER' as const };
    return (await app.db.membership.create({ data: membership })).id;
  },
  Invitation: async (app, of) => (await invitationOf(app, of)).id,
  KeyRotation: async (app, of) => {
    const id = newId();
    await app.db.run.create({
      data: {
        id,
        workspaceId: of.id,
        kind: 'KeyRotation',
        status: 'FAILED',
        phase: 'FAILED',
        statusReason: of.marker,
        actorId: of.owner.id,
        input: { keyId: 'k1' },
        deadlineAt: new Date(Date.now() + 3_600_000),
        completedAt: new Date(),
        keyRotation: { create: { keyId: 'k1', columns: { [of.marker]: { rewrapped: 1, failed: 0 } } } },
      },
    });
    return id;
  },
  ApplicationDeletion: async (app, of) => {
    const id = newId();
    await app.db.run.create({
      data: {
        id,
        workspaceId: of.id,
        kind: 'ApplicationDeletion',
        status: 'FAILED',
        phase: 'FAILED',
        statusReason: of.marker,
        actorId: of.owner.id,
        input: { applicationId: newId(), name: of.marker },
        deadlineAt: new Date(Date.now() + 3_600_000),
        completedAt: new Date(),
      },
    });
    return id;
  },
  WorkspaceDeletion: async (app, of) => {
    const id = newId();
    await app.db.run.create({
      data: {
        id,
        workspaceId: of.id,
        kind: 'WorkspaceDeletion',
        status: 'FAILED',
        phase: 'FAILED',
        statusReason: of.marker,
        actorId: of.owner.id,
        input: { workspaceId: newId() },
        deadlineAt: new Date(Date.now() + 3_600_000),
        completedAt: new Date(),
      },
    });
    const report = { files: { removed: 1, left: [of.marker] } };
    const deletion = { id: newId(), workspaceId: newId(), runId: id, receiptHash: newToken().hash, report };
    await app.db.workspaceDeletion.create({ data: deletion });
    return id;
  },
  Session: async (app, of) => {
    const origin = { address: '203.0.113.1', userAgent: of.marker };
    const opened = await app.transact(system, (tx) =>
      app.use(Sessions).open(tx, { userId: of.owner.id, method: 'PASSWORD', origin }),
    );
    return opened.sessionId;
  },
  AccountDeletion: async (app, of) => {
    const id = newId();
    await app.db.run.create({
      data: {
        id,
        workspaceId: of.id,
        kind: 'AccountDeletion',
        status: 'FAILED',
        phase: 'FAILED',
        statusReason: of.marker,
        actorId: of.owner.id,
        input: { userId: newId(), receiptHash: sha256Hex(id) },
        deadlineAt: new Date(Date.now() + 3_600_000),
        completedAt: new Date(),
        accountDeletion: { create: { receiptHash: sha256Hex(id), report: { memberships: 1 } } },
      },
    });
    return id;
  },
  SsoConnection: async (app, of) => {
    const connection = {
      id: newId(),
      workspaceId: of.id,
      name: of.marker,
      issuer: `https://${of.marker}.example`,
      clientId: of.marker,
      clientSecret: null,
    };
    return (await app.db.ssoConnection.create({ data: connection })).id;
  },
  SsoDomain: async (app, of) => {
    const domain = `${of.marker.toLowerCase()}-${randomBytes(6).toString('hex')}.example`;
    const row = { id: newId(), workspaceId: of.id, domain, challenge: domainChallenge };
    return (await app.db.ssoDomain.create({ data: row })).id;
  },
  ExternalIdentity: async (app, of) => {
    const subject = `${of.marker}-${randomBytes(6).toString('hex')}`;
    const identity = { id: newId(), userId: of.owner.id, provider: 'github', subject };
    return (await app.db.externalIdentity.create({ data: identity })).id;
  },
  // Without verbs, so that every key may take its place.
  ApiKey: async (app, of) => (await keyOf(app, of, of.owner.id, 'VIEWER', { scopes: [] })).id,
  Artifact: async (app, of) => (await artifact(app, of, null)).id,
  Document: async (app, of) => (await extractedTable(app, of)).documentId,
  ExtractionConfiguration: async (app, of) => {
    const { jobId } = await extractedTable(app, of);
    const { configurationId } = await app.db.extractionJob.findUniqueOrThrow({ where: { id: jobId } });
    return configurationId ?? '';
  },
  // With a table, so that its list is none of nothing.
  ExtractionJob: async (app, of) => (await extractedTable(app, of)).jobId,
  ExtractedTable: async (app, of) => (await extractedTable(app, of)).id,
  TableExport: async (app, of) => {
    const table = await extractedTable(app, of);
    const produced = await document(app, of);
    const id = newId();
    await app.db.run.create({
      data: {
        id,
        workspaceId: of.id,
        kind: 'TableExport',
        status: 'FAILED',
        phase: 'FAILED',
        statusReason: of.marker,
        actorId: of.owner.id,
        parentId: table.jobId,
        input: { tableId: table.id, jobId: table.jobId, format: 'CSV', options: {} },
        deadlineAt: new Date(Date.now() + 3_600_000),
        completedAt: new Date(),
        tableExport: { create: { tableId: table.id, jobId: table.jobId, format: 'CSV', documentId: produced.id } },
      },
    });
    return id;
  },
  DeadLetter: async (app, of) => {
    const payload = {};
    const letter = { id: newId(), workspaceId: of.id, job: 'kernel.cleanUp', payload, error: of.marker, attempts: 3 };
    return (await app.db.deadLetter.create({ data: letter })).id;
  },
  AlertRule: async (app, of) => {
    const applicationId = await application(app, of);
    const rule = {
      id: newId(),
      workspaceId: of.id,
      applicationId,
      condition: 'CPU' as const,
      threshold: 1,
      windowS: 60,
    };
    return (await app.db.alertRule.create({ data: rule })).id;
  },
  InboxItem: async (app, of) => {
    const item = { id: newId(), workspaceId: of.id, kind: of.marker, subjectType: 'Workspace', subjectId: of.id, title: of.marker, openKey: newId() }; // prettier-ignore
    return (await app.db.inboxItem.create({ data: item })).id;
  },
  ConnectedRepository: async (app, of) => (await connectedRepository(app, of)).id,
  WebhookDelivery: async (app, of) => {
    const { id: repositoryId, fullName } = await connectedRepository(app, of);
    const row = {
      id: newId(),
      workspaceId: of.id,
      repositoryId,
      guid: randomUUID(),
      event: 'push',
      fullName,
      ref: `refs/heads/${of.marker}`,
      status: 'IGNORED' as const,
      reason: of.marker,
      payload: JSON.stringify({ ref: of.marker }),
    };
    return (await app.db.webhookDelivery.create({ data: row })).id;
  },
  Application: application,
  Deployment: async (app, of) => {
    const id = await deployment(app, of, await application(app, of));
    const { id: repositoryId } = await connectedRepository(app, of);
    await app.db.commitStatus.create({ data: { id, repositoryId, commitSha: 'b'.repeat(40), error: of.marker } });
    return id;
  },
};

async function connectedRepository(app: App, of: Tenant) {
  const id = newId();
  const fullName = `${of.marker}/${randomBytes(4).toString('hex')}`;
  const sealed = await app.use(Sealing).seal(of.marker, `connected_repository.webhook_secret:${id}`);
  return app.db.connectedRepository.create({
    data: {
      id,
      workspaceId: of.id,
      githubId: BigInt(randomBytes(6).readUIntBE(0, 6)),
      fullName,
      cloneUrl: `https://github.example/${fullName}.git`,
      urlKey: `https://github.example/${fullName}`.toLowerCase(),
      isPrivate: true,
      access: 'TOKEN',
      webhookSecret: sealed,
    },
  });
}

/** A release that can be brought back; not a node, but mutations take its id. */
export async function retiredRelease(app: App, of: Tenant): Promise<{ applicationId: string; id: string }> {
  const applicationId = await application(app, of);
  const deploymentId = await deployment(app, of, applicationId, { status: 'SUCCEEDED', phase: 'DEPLOYED' });
  const release = await app.db.release.create({
    data: {
      id: newId(),
      applicationId,
      deploymentId,
      status: 'RETIRED',
      commitSha: 'a'.repeat(40),
      artifact: { path: of.marker, startCommand: of.marker },
      activatedAt: new Date(),
      retiredAt: new Date(),
    },
  });
  return { applicationId, id: release.id };
}

/** The global id of a new row. */
export async function nodeOf(app: App, of: Tenant, type: string): Promise<string> {
  const make = rowOf[type];
  if (!make) throw new Error(`test/support/world.ts makes no ${type}: add it to rowOf`);
  return globalId(type, await make(app, of));
}

async function artifact(app: App, of: Tenant, runId: string | null) {
  return app.db.artifact.create({
    data: {
      id: newId(),
      workspaceId: of.id,
      runId,
      name: of.marker,
      contentType: 'text/plain',
      status: 'READY',
      sizeBytes: 1n,
      sha256: sha256Hex(of.marker),
    },
  });
}

async function document(app: App, of: Tenant) {
  const { id: artifactId, sizeBytes, sha256 } = await artifact(app, of, null);
  return app.db.document.create({
    data: {
      id: newId(),
      workspaceId: of.id,
      artifactId,
      name: of.marker,
      format: 'CSV',
      contentType: 'text/csv',
      sizeBytes,
      sha256,
      createdById: of.owner.id,
    },
  });
}

async function extractionConfiguration(app: App, of: Tenant) {
  const definition = { columns: [{ name: of.marker }] };
  return app.db.extractionConfiguration.create({
    data: {
      id: newId(),
      workspaceId: of.id,
      name: `${of.marker} ${newId()}`,
      versions: { create: { version: 1, definition, createdById: of.owner.id } },
    },
  });
}

async function extractionJob(app: App, of: Tenant): Promise<string> {
  const [{ id: documentId }, { id: configurationId }] = [
    await document(app, of),
    await extractionConfiguration(app, of),
  ];
  const id = newId();
  await app.db.run.create({
    data: {
      id,
      workspaceId: of.id,
      kind: 'ExtractionJob',
      status: 'FAILED',
      phase: 'FAILED',
      statusReason: of.marker,
      actorId: of.owner.id,
      input: { documentId, configurationId, configurationVersion: 1 },
      deadlineAt: new Date(Date.now() + 3_600_000),
      completedAt: new Date(),
      extractionJob: {
        create: {
          documentId,
          configurationId,
          configurationVersion: 1,
          warnings: [{ code: 'A_WARNING', message: of.marker }],
        },
      },
    },
  });
  return id;
}

/** A table with a cell, and what somebody has said of another one. */
async function extractedTable(app: App, of: Tenant) {
  const jobId = await extractionJob(app, of);
  const { documentId } = await app.db.extractionJob.findUniqueOrThrow({ where: { id: jobId } });
  const citation = { kind: 'SHEET', sheet: of.marker, ref: 'A2' };
  const text = { extractedText: of.marker, fromText: of.marker, toText: of.marker, reason: of.marker };
  const place = { row: 0, column: 0 };
  return app.db.extractedTable.create({
    data: {
      id: newId(),
      workspaceId: of.id,
      jobId,
      documentId,
      position: 0,
      name: of.marker,
      place: { kind: 'SHEET', sheet: of.marker },
      complete: true,
      rowCount: 1,
      columnCount: 1,
      cellCount: 1,
      columns: { create: { position: 0, name: of.marker, type: 'TEXT' } },
      cells: { create: { ...place, type: 'TEXT', text: of.marker, confidence: 1, citation } },
      corrections: {
        create: {
          row: 1,
          column: 0,
          ...text,
          version: 1,
          documentId,
          citation,
          columnType: 'TEXT',
          type: 'TEXT',
          actorId: of.owner.id,
        },
      },
    },
  });
}

/** Of a finding that every application has. */
export const someFingerprint = 'f'.repeat(64);

export async function application(app: App, of: Tenant): Promise<string> {
  const id = newId();
  const name = `${of.marker.toLowerCase()}-${randomBytes(4).toString('hex')}`;
  await app.db.application.create({
    data: {
      id,
      workspaceId: of.id,
      name,
      repositoryUrl: `https://example.com/${of.marker}`,
      branch: of.marker,
      buildCommand: of.marker,
      startCommand: of.marker,
      hostId: of.hostId,
      knownFindings: {
        create: { id: newId(), fingerprint: someFingerprint, suppressedAt: new Date(), reason: of.marker },
      },
    },
  });
  return id;
}

/** A security scan with one finding. */
const scanOf = (of: Tenant, applicationId: string) => {
  const known = { applicationId, fingerprint: someFingerprint };
  return {
    id: newId(),
    complete: true,
    verdict: 'PASSED' as const,
    requireCompleteScan: false,
    scanners: [],
    findings: {
      create: {
        id: newId(),
        scanner: 'SECRETS' as const,
        severity: 'LOW' as const,
        rule: of.marker,
        title: of.marker,
        known: { connectOrCreate: { where: { applicationId_fingerprint: known }, create: { id: newId(), ...known } } },
      },
    },
  };
};

/** A deployment with steps, events, output and an artifact; it failed unless something else is said. */
export async function deployment(
  app: App,
  of: Tenant,
  applicationId: string,
  state: { status: 'FAILED' | 'SUCCEEDED' | 'RUNNING' | 'QUEUED'; phase: string } = {
    status: 'FAILED',
    phase: 'FAILED',
  },
  lines = 6,
): Promise<string> {
  const id = newId();
  const over = state.status === 'FAILED' || state.status === 'SUCCEEDED';
  await app.db.run.create({
    data: {
      id,
      workspaceId: of.id,
      kind: 'Deployment',
      ...state,
      statusReason: of.marker,
      attempt: state.status === 'QUEUED' ? 0 : 1,
      actorId: of.owner.id,
      hostId: of.hostId,
      input: { kind: 'BUILD', applicationId, ref: of.marker },
      logSeq: BigInt(lines),
      deadlineAt: new Date(Date.now() + 3_600_000),
      ...(over ? { completedAt: new Date() } : {}),
      // Held by a worker that is not here: nobody takes it.
      ...(state.status === 'RUNNING' ? { workerId: newId(), leaseUntil: new Date(Date.now() + 3_600_000) } : {}),
      deployment: {
        create: {
          applicationId,
          ref: of.marker,
          commitSha: 'b'.repeat(40),
          commitSubject: of.marker,
          securityScan: { create: scanOf(of, applicationId) },
        },
      },
      steps: {
        create: ['fetch', 'build', 'start', 'health'].map((name, position) => ({
          id: newId(),
          name,
          position,
          status: over ? ('FAILED' as const) : ('PENDING' as const),
          error: of.marker,
        })),
      },
    },
  });
  // The run alone.
  if (lines === 0) return id;
  await app.db.logLine.createMany({
    data: Array.from({ length: lines }, (_, i) => ({
      runId: id,
      seq: BigInt(i + 1),
      at: new Date(),
      stream: 'STDOUT',
      text: of.marker,
    })),
  });
  await artifact(app, of, id);
  const kind = runKind('Deployment');
  await app.transact({ ...system, userId: of.owner.id, kind: 'SESSION' }, async (tx) => {
    const subject = { workspaceId: of.id, subjectId: id, run: { id, kind: 'Deployment' } };
    for (let i = 1; i < lines; i++)
      tx.append({ type: kind.step.started, ...subject, data: { step: of.marker, attempt: 1 } });
    const last = over ? kind.events.get(state.phase) : kind.queued;
    if (last) tx.append({ type: last, ...subject, from: 'HEALTH_CHECKING', to: state.phase });
  });
  return id;
}
