import { DomainError } from '#kernel/errors.ts';

/** GitHub cannot be asked, or says no. */
export class GitHubRefusal extends DomainError {
  readonly code = 'GITHUB_REFUSED';
}

/** A repository that cannot be connected: there is none that is reached so, or the right to push is missing. */
export class RepositoryNotReached extends DomainError {
  readonly code = 'REPOSITORY_NOT_REACHED';
}
