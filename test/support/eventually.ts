/** Waits until something does not throw any more; throws what it threw last after 15 s. */
export async function eventually(action: () => unknown): Promise<void> {
  const giveUpMs = Date.now() + 15_000;
  for (;;) {
    try {
      await action();
      return;
    } catch (error) {
      if (Date.now() > giveUpMs) throw error;
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  }
}
