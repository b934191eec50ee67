"""PyTorch files to parameter trees and back: safe reading, names, the release, model folders."""
