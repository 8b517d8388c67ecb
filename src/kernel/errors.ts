/** What the caller can act on. Thrown by services, shown to clients as a member of the field's result union. */
export abstract class DomainError extends Error {
  /** Stable, documented in docs/errors.md; never renamed once released. */
  abstract readonly code: string;
}

/** One thing that is wrong with an input. `path` is dot-separated from the input's root. */
export interface Issue {
  readonly path: string;
  readonly message: string;
}

/** The input itself is wrong; names every field that is, not just the first. */
export class ValidationError extends DomainError {
  readonly code = 'VALIDATION_ERROR';
  readonly issues: readonly Issue[];
  constructor(issues: readonly Issue[]) {
    super(issues.map((issue) => (issue.path ? `${issue.path}: ${issue.message}` : issue.message)).join('; '));
    this.issues = issues;
  }
}

/** There is no such thing, or the caller may not know that there is. */
export class NotFound extends DomainError {
  readonly code = 'NOT_FOUND';
  readonly kind: string;
  readonly id: string;
  constructor(kind: string, id: string) {
    super(`There is no ${kind} ${id}.`);
    this.kind = kind;
    this.id = id;
  }
}

/** A member of the workspace asked for what their role does not allow. */
export class Forbidden extends DomainError {
  readonly code = 'FORBIDDEN';
  /** The verb that was refused, for instance `deployments.createDeployment`. */
  readonly verb: string;
  constructor(verb: string) {
    super(`Your role does not allow ${verb}.`);
    this.verb = verb;
  }
}

/** Nobody is signed in, or the credential is no longer good. */
export class Unauthenticated extends DomainError {
  readonly code = 'UNAUTHENTICATED';
  constructor(message = 'Sign in first.') {
    super(message);
  }
}

/** The thing was changed, or exists, since the caller looked. */
export class Conflict extends DomainError {
  readonly code = 'CONFLICT';
}

/** The thing's state does not allow the change. */
export class IllegalTransition extends DomainError {
  readonly code = 'ILLEGAL_TRANSITION';
  readonly from: string;
  readonly to: string;
  readonly allowed: readonly string[];
  constructor(from: string, to: string, allowed: readonly string[]) {
    super(
      `It cannot go from ${from} to ${to}${allowed.length ? `, only to ${allowed.join(', ')}` : ': that is final'}.`,
    );
    this.from = from;
    this.to = to;
    this.allowed = allowed;
  }
}

/** The same idempotency key was used with another input. */
export class IdempotencyConflict extends DomainError {
  readonly code = 'IDEMPOTENCY_CONFLICT';
  readonly key: string;
  constructor(key: string) {
    super(`The idempotency key ${key} was used with another input in the last 24 hours.`);
    this.key = key;
  }
}
