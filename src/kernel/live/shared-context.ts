import type { Role } from '#prisma';
import type { Actor } from '../auth/actor.ts';
import type { App } from '../app.ts';
import type { Context } from '../graphql/context.ts';
import type { Dependence } from './operation.ts';

/** Something of one subscriber was read where many share the answer: a field that needs it did not say so. */
export class NotShared extends Error {
  constructor(what: string) {
    super(`${what} is read in an execution that subscribers share: declare the field with \`ofCredential\``);
  }
}

const refuse = (what: string): never => {
  throw new NotShared(what);
};

/** What those who share an execution have in common of their actors. */
class CommonActor implements Actor {
  readonly #roles: ReadonlyMap<string, Role>;

  constructor(roles: ReadonlyMap<string, Role>) {
    this.#roles = roles;
  }
  get roles(): ReadonlyMap<string, Role> {
    return this.#roles;
  }
  get kind(): Actor['kind'] {
    return refuse('actor.kind');
  }
  get userId(): string | null {
    return refuse('actor.userId');
  }
  get credentialId(): string | null {
    return refuse('actor.credentialId');
  }
  get expiresAt(): Date | null {
    return refuse('actor.expiresAt');
  }
  get scopes(): ReadonlySet<string> | null {
    return refuse('actor.scopes');
  }
  get origin(): null {
    return refuse('actor.origin');
  }
}

/** All who follow a workspace: nothing can be read of them. */
export const everybody: Actor = new (class extends CommonActor {
  override get roles(): ReadonlyMap<string, Role> {
    return refuse('actor.roles');
  }
})(new Map());

class CommonPerson extends CommonActor {
  readonly #kind: Actor['kind'];
  readonly #userId: string | null;

  constructor({ roles, kind, userId }: Actor) {
    super(roles);
    this.#kind = kind;
    this.#userId = userId;
  }
  override get kind(): Actor['kind'] {
    return this.#kind;
  }
  override get userId(): string | null {
    return this.#userId;
  }
}

class CommonCredential extends CommonPerson {
  readonly #credentialId: string | null;
  readonly #scopes: ReadonlySet<string> | null;

  constructor(actor: Actor) {
    super(actor);
    this.#credentialId = actor.credentialId;
    this.#scopes = actor.scopes;
  }
  override get credentialId(): string | null {
    return this.#credentialId;
  }
  override get scopes(): ReadonlySet<string> | null {
    return this.#scopes;
  }
}

/** The part of an actor that a document of this dependence may read; everything else of it throws {@link NotShared}. */
export function commonActor(dependence: Dependence, actor: Actor, workspaceId: string): Actor {
  if (dependence === 'CREDENTIAL') return new CommonCredential(actor);
  if (dependence === 'PERSON') return new CommonPerson(actor);
  const role = actor.roles.get(workspaceId);
  return new CommonActor(new Map(role ? [[workspaceId, role]] : []));
}

/** Rights as a text that is the same for actors who may share, and for no others. */
export function rightsKey(dependence: Dependence, actor: Actor, workspaceId: string): string {
  if (dependence === 'ROLE') return actor.roles.get(workspaceId) ?? '';
  const roles = [...actor.roles].map(([id, role]) => `${id}=${role}`).toSorted();
  const person = [actor.kind, actor.userId, ...roles];
  if (dependence === 'PERSON') return JSON.stringify(person);
  return JSON.stringify([...person, actor.credentialId, actor.scopes ? [...actor.scopes].toSorted() : null]);
}

/** The context of an execution that many subscribers share: rights, and nothing of any of them. */
export class SharedContext implements Context {
  readonly app: App;
  readonly actor: Actor;

  constructor(app: App, actor: Actor) {
    this.app = app;
    this.actor = actor;
  }
  get requestId(): string {
    return refuse('requestId');
  }
  get rate(): NonNullable<Context['rate']> {
    return refuse('rate');
  }
  get clientAddress(): string | null {
    return refuse('clientAddress');
  }
  get setSession(): null {
    return refuse('setSession');
  }
  get gone(): null {
    return refuse('gone');
  }
  get endStreams(): null {
    return refuse('endStreams');
  }
}
