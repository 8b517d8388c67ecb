import { randomBytes } from 'node:crypto';
import { Prisma, type ConnectedRepository } from '#prisma';
import { service, type App } from '#kernel/app.ts';
import { isPerson, type Actor } from '#kernel/auth/actor.ts';
import { authorize, authorizeRow } from '#kernel/auth/policy.ts';
import type { Appended, Transaction } from '#kernel/db/transact.ts';
import { Conflict, NotFound, ValidationError } from '#kernel/errors.ts';
import { isId, newId } from '#kernel/ids.ts';
import { parse } from '#kernel/input.ts';
import { defineSealedColumn } from '#kernel/sealing/columns.ts';
import { Sealing } from '#kernel/sealing/sealing.ts';
import { External } from '../../identity/index.ts';
import { Previews, urlKey, type SourceCredentials } from '../../deployments/index.ts';
import { GitHubApiFailed, repositoryName, type GitHubRepository } from '../../../integrations/github/index.ts';
import { GitHubRefusal, RepositoryNotReached } from '../errors.ts';
import { repositoryConnected, repositoryDisconnected, webhookSecretRotated } from '../events.ts';
import { formerSecretMs, NewConnection } from '../model.ts';
import { can } from '../policy.ts';
import { RepositorySettings } from './settings.ts';

const table = 'connected_repository';
const tokenColumn = defineSealedColumn({ table, column: 'token' });
const secretColumn = defineSealedColumn({ table, column: 'webhook_secret' });
const formerColumn = defineSealedColumn({ table, column: 'former_secret' });

/** For everything that is asked of GitHub for one request. */
const askingMs = 15_000;
const pageSize = 50;

export interface Changed {
  readonly id: string;
  readonly workspaceId: string;
  readonly event: Appended;
}

/** With the secret, which is shown this once. */
export interface WithSecret extends Changed {
  readonly webhookSecret: string;
}

export interface RepositoryPage {
  readonly repositories: readonly GitHubRepository[];
  /** Null: this was the last one. */
  readonly nextPage: number | null;
}

interface Reached {
  readonly repository: GitHubRepository;
  readonly access: ConnectedRepository['access'];
  readonly installationId: number | null;
}

export const webhookPath = '/webhooks/github';

/** Repositories at GitHub that workspaces deploy from. The only writer of connected_repository. */
export const Repositories = service('repositories', (app) => {
  /** @throws {GitHubRefusal} instead of what the client throws */
  const asking = async <T>(work: (signal: AbortSignal) => Promise<T>, signal?: AbortSignal): Promise<T> => {
    const late = AbortSignal.timeout(askingMs);
    try {
      return await work(signal ? AbortSignal.any([signal, late]) : late);
    } catch (error) {
      signal?.throwIfAborted();
      if (error instanceof GitHubApiFailed) throw new GitHubRefusal(error.message);
      if (late.aborted) throw new GitHubRefusal('GitHub does not answer in time.');
      throw error;
    }
  };

  /** Whoever connects it must be somebody who may push to it: so nobody gets code, or deliveries, that are not theirs. */
  const reach = async (actor: Actor, fullName: string, token: string | null): Promise<Reached> => {
    const { api } = app.use(RepositorySettings);
    const own = token ?? (await tokenOfPerson(app, actor));
    if (own === null)
      throw new RepositoryNotReached('Link your account with GitHub, or give a token for the repository.');
    return asking(async (signal) => {
      const repository = await api.repository(own, fullName, signal);
      if (!repository) throw new RepositoryNotReached('GitHub has no such repository that is reached so.');
      if (!repository.mayPush) throw new RepositoryNotReached('Only who may push to a repository can connect it.');
      if (token !== null) return { repository, access: 'TOKEN', installationId: null };
      const installationId = await api.installationOf(repository.fullName, signal);
      return { repository, access: installationId === null ? 'PERSON' : 'INSTALLATION', installationId };
    });
  };

  const locked = async (tx: Transaction, id: string): Promise<ConnectedRepository | null> => {
    await tx.db.$queryRaw`select 1 from connected_repository where id = ${id}::uuid for update`;
    return tx.db.connectedRepository.findUnique({ where: { id } });
  };

  return {
    /**
     * Connects a repository: its private source can be fetched, pushes deploy, and deployments are told to GitHub.
     * @throws {ValidationError} {NotFound} {Forbidden} {RepositoryNotReached} {GitHubRefusal} {Conflict}
     */
    async connect(actor: Actor, raw: unknown): Promise<WithSecret> {
      const { workspaceId, repository: fullName, token = null } = parse(NewConnection, raw);
      authorize(actor, can.connectRepository, workspaceId);
      if (!repositoryName(fullName)) throw new ValidationError([{ path: 'repository', message: 'must be owner/name' }]);
      const { repository, access, installationId } = await reach(actor, fullName, token);
      const key = urlKey(repository.cloneUrl);
      if (key === null) throw new GitHubRefusal('GitHub gave no address that the repository is fetched from.');
      const id = newId();
      const webhookSecret = newSecret();
      const sealing = app.use(Sealing);
      const row = {
        id,
        workspaceId,
        githubId: BigInt(repository.id),
        fullName: repository.fullName,
        cloneUrl: repository.cloneUrl,
        urlKey: key,
        isPrivate: repository.isPrivate,
        access,
        token: token === null ? null : await sealing.seal(token, tokenColumn.context(id)),
        personId: access === 'PERSON' ? actor.userId : null,
        installationId: installationId === null ? null : BigInt(installationId),
        webhookSecret: await sealing.seal(webhookSecret, secretColumn.context(id)),
      };
      try {
        return await app.transact(actor, async (tx) => {
          await tx.db.connectedRepository.create({ data: row });
          const event = tx.append({ type: repositoryConnected, workspaceId, subjectId: id });
          return { id, workspaceId, webhookSecret, event };
        });
      } catch (error) {
        if (error instanceof Prisma.PrismaClientKnownRequestError && error.code === 'P2002')
          throw new Conflict('The workspace has connected this repository already.');
        throw error;
      }
    },

    /** Makes a new webhook secret; the one before stays good for a day. @throws {NotFound} {Forbidden} {Conflict} */
    async rotateSecret(actor: Actor, id: string): Promise<WithSecret> {
      if (!isId(id)) throw new NotFound('ConnectedRepository', id);
      const sealing = app.use(Sealing);
      const webhookSecret = newSecret();
      // Keys may be far away: they are asked before anything is locked.
      const found = await app.db.connectedRepository.findUnique({ where: { id } });
      authorizeRow(actor, can.rotateWebhookSecret, found, 'ConnectedRepository', id);
      const former = await sealing.openText(found.webhookSecret, secretColumn.context(id));
      const sealed = {
        webhookSecret: await sealing.seal(webhookSecret, secretColumn.context(id)),
        formerSecret: await sealing.seal(former, formerColumn.context(id)),
      };
      return app.transact(actor, async (tx) => {
        const row = await locked(tx, id);
        authorizeRow(actor, can.rotateWebhookSecret, row, 'ConnectedRepository', id);
        if (row.webhookSecret !== found.webhookSecret)
          throw new Conflict('The secret was changed meanwhile; ask again.');
        await tx.db.connectedRepository.update({
          where: { id },
          data: { ...sealed, formerUntil: new Date(Date.now() + formerSecretMs) },
        });
        const { workspaceId } = row;
        const event = tx.append({ type: webhookSecretRotated, workspaceId, subjectId: id });
        return { id, workspaceId, webhookSecret, event };
      });
    },

    /** Forgets a repository with its token and secrets. @throws {NotFound} {Forbidden} */
    async disconnect(actor: Actor, id: string): Promise<Changed> {
      if (!isId(id)) throw new NotFound('ConnectedRepository', id);
      return app.transact(actor, async (tx) => {
        const found = await tx.db.connectedRepository.findUnique({ where: { id } });
        authorizeRow(actor, can.disconnectRepository, found, 'ConnectedRepository', id);
        const { workspaceId, githubId } = found;
        // Nobody would tell when their pull requests are closed. Applications are locked first, as deployments do it.
        await app.use(Previews).closeOf(tx, { workspaceId, githubId }, 'The repository is connected no more.');
        const { count } = await tx.db.connectedRepository.deleteMany({ where: { id } });
        if (count === 0) throw new NotFound('ConnectedRepository', id);
        return { id, workspaceId, event: tx.append({ type: repositoryDisconnected, workspaceId, subjectId: id }) };
      });
    },

    /**
     * Repositories that the actor can pick from, by name, a page at a time; null: they are not linked with GitHub.
     * @throws {GitHubRefusal}
     */
    async ofPerson(actor: Actor, page: number): Promise<RepositoryPage | null> {
      const token = await tokenOfPerson(app, actor);
      if (token === null) return null;
      const { api } = app.use(RepositorySettings);
      const repositories = await asking((signal) => api.repositories(token, { page, pageSize }, signal));
      return { repositories, nextPage: repositories.length < pageSize ? null : page + 1 };
    },

    /** A connection and the secrets that sign its deliveries; null: there is none. */
    async secretsOf(id: string): Promise<{ row: ConnectedRepository; secrets: readonly string[] } | null> {
      const row = isId(id)
        ? await app.db.connectedRepository.findUnique({ where: { id, workspace: { deletedAt: null } } })
        : null;
      if (!row) return null;
      const sealing = app.use(Sealing);
      const secrets = [await sealing.openText(row.webhookSecret, secretColumn.context(id))];
      if (row.formerSecret && row.formerUntil && row.formerUntil > new Date())
        secrets.push(await sealing.openText(row.formerSecret, formerColumn.context(id)));
      return { row, secrets };
    },

    /** A token that may do this, and no more where GitHub lets us say so. @throws {GitHubRefusal} */
    async token(
      row: ConnectedRepository,
      permissions: Readonly<Record<string, 'read' | 'write'>>,
      signal: AbortSignal,
    ): Promise<string> {
      const { id, token, personId, installationId, workspaceId } = row;
      if (installationId !== null) {
        const of = { installationId: Number(installationId), repositoryId: Number(row.githubId) };
        return asking((late) => app.use(RepositorySettings).api.installationToken(of, permissions, late), signal);
      }
      if (token !== null) return app.use(Sealing).openText(token, tokenColumn.context(id));
      // A person lends theirs only as long as they belong to the workspace.
      const lent =
        personId !== null &&
        (await app.db.membership.count({ where: { workspaceId, userId: personId } })) > 0 &&
        (await app.use(External).gitHubToken(personId));
      if (!lent) throw new GitHubRefusal('Whoever connected the repository is not linked with GitHub, or no member.');
      return lent;
    },

    /** What to fetch a private repository with. Never over a connection that others can read. @throws {GitHubRefusal} */
    async credentials(
      of: { readonly workspaceId: string; readonly repositoryUrl: string },
      signal: AbortSignal,
    ): Promise<SourceCredentials | null> {
      const key = urlKey(of.repositoryUrl);
      if (key === null || !isConfidential(of.repositoryUrl)) return null;
      const where = { workspaceId_urlKey: { workspaceId: of.workspaceId, urlKey: key } };
      const row = await app.db.connectedRepository.findUnique({ where });
      if (!row?.isPrivate) return null;
      return { username: 'x-access-token', password: await this.token(row, { contents: 'read' }, signal) };
    },

    /** Address that GitHub sends a connection's deliveries to. */
    webhookUrl: (id: string): string => `${app.use(RepositorySettings).baseUrl()}${webhookPath}/${id}`,
  };
});

const newSecret = (): string => randomBytes(32).toString('hex');

/** Of a person who acts themselves: a program for them does not reach what is theirs at GitHub. */
const tokenOfPerson = async (app: App, actor: Actor): Promise<string | null> =>
  isPerson(actor) && actor.userId !== null ? app.use(External).gitHubToken(actor.userId) : null;

function isConfidential(address: string): boolean {
  const url = URL.parse(address);
  if (url?.protocol === 'https:') return true;
  return url?.protocol === 'http:' && /^(?:localhost|127(?:\.\d+){3}|\[::1\])$/.test(url.hostname);
}
